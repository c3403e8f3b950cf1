"""The server core, shared by the daemons: life cycle, listeners, signals, logging, metrics.

Knows HTTP, sockets and the process, and nothing of models.
"""
