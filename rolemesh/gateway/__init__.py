"""The gateway: the OpenAI-compatible front before several backends."""
