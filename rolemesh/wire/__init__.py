"""Formats: bytes and mappings in, bytes and mappings out. As pure as `core`."""
