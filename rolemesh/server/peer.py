"""What a request tells of who is there: the key that it presents, and facts about its peer.

Read by the doors of gateway and node, which ask core/access whom that makes the caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from rolemesh.core.access import Peer, address_allowed
from rolemesh.core.types import Network
from rolemesh.server.inbound import Inbound
from rolemesh.server.request import Request
from rolemesh.wire.headers import presented_key

_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z.-]+))(?::[0-9]{1,5})?")
_FORWARDING = ("Forwarded", "X-Real-IP", "Via")


def client_key(request: Request) -> str | None:
    return presented_key(request.header, "X-Api-Key")


def peer_of(inbound: Inbound) -> Peer:
    names = [name.lower() for name, _ in inbound.request.raw_headers]
    forwarded = any(name.startswith(b"x-forwarded-") for name in names) or any(
        inbound.request.header(name) is not None for name in _FORWARDING
    )
    return Peer(
        loopback=_is_loopback(inbound.request.peer or ""),
        forwarded=forwarded,
        origin=inbound.request.header("Origin") is not None,
        host_loopback=_names_loopback(inbound.request.header("Host") or ""),
    )


def _names_loopback(host: str) -> bool:
    """Strictly: what is no host and port names nothing."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found["v6"] or found["name"].removesuffix(".")
    return name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def behind_proxies(inbound: Inbound, trusted: Sequence[Network]) -> str | None:
    """The last address that no trusted proxy vouches for another one behind."""
    address = inbound.request.peer
    hops = [
        hop.strip()
        for value in inbound.request.headers("X-Forwarded-For")
        for hop in value.split(",")
    ]
    while hops and address is not None and address_allowed(address, trusted):
        try:
            address = str(ip_address(hops.pop()))
        except ValueError:
            break
    return address
