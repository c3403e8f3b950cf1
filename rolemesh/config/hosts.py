"""Hosts as configurations write them, compared without asking a resolver. Pure.

Read by the checks: who can reach an address that a daemon binds, and whether a URL leads to it.
"""

from __future__ import annotations

import ipaddress

from rolemesh.core.types import BaseUrl

_WILDCARDS = frozenset({"0.0.0.0", "::"})
_LOCALHOST = frozenset({"localhost", "127.0.0.1", "::1"})


def is_wildcard(host: str) -> bool:
    """Whether it stands for every address of the machine."""
    return _address(host) in _WILDCARDS


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to `host` (RFC 6761 for the names)."""
    try:
        return ipaddress.ip_address(_address(host)).is_loopback
    except ValueError:
        name = _address(host)
        return name == "localhost" or name.endswith(".localhost")


def leads_to(url: BaseUrl | None, bound: str, port: int) -> bool:
    """Whether the URL is that of a daemon bound there, by host and port as they are written:
    resolving a name is for the loop detection to do."""
    if url is None or url.port != port:
        return False
    bound, host = _address(bound), _address(url.host)
    if bound == host:
        return True
    if host in _WILDCARDS:  # connecting there reaches loopback
        return bound in _WILDCARDS or is_loopback(bound)
    if bound in _WILDCARDS:
        return is_loopback(host)
    return "localhost" in (bound, host) and {bound, host} <= _LOCALHOST


def _address(host: str) -> str:
    """A host in the one form in which it can be compared."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
