"""The streaming proxy: a keep-alive pool per backend, one exchange at a time on each connection.

Shared by the gateway and the node. Knows no aliases, no other backends and no metrics: it returns
figures, or raises `Broken`.
"""
