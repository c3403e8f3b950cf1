"""RoleMesh: several model servers behind one OpenAI-compatible API, routed by role."""

__version__ = "0.1.0"
