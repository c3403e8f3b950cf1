"""Who stands at the door: the key and the peer of a request, and whom core/access says it is.

Called first by every handler, before anything else of a request is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from rolemesh.core import access
from rolemesh.core.access import Peer
from rolemesh.core.types import Caller, Network
from rolemesh.errors import InvalidApiKey
from rolemesh.gateway.live import Live
from rolemesh.server.inbound import Inbound
from rolemesh.server.request import Request, once
from rolemesh.wire.headers import presented_key

_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z.-]+))(?::[0-9]{1,5})?")
_FORWARDING = ("Forwarded", "X-Real-IP", "Via")


def client(live: Live, inbound: Inbound) -> Caller:
    """Raises InvalidApiKey."""
    return _admitted(
        inbound, access.admit_client(live.clients, once(inbound.request, _client_key)), live
    )


def client_or_admin(live: Live, inbound: Inbound) -> Caller:
    """For what operators may see as clients do. Raises InvalidApiKey."""
    try:
        return client(live, inbound)
    except InvalidApiKey:
        if not live.admins:
            raise
        return admin(live, inbound)


def admin(live: Live, inbound: Inbound) -> Caller:
    """Raises InvalidApiKey."""
    key = once(inbound.request, _client_key)
    caller = access.admit_admin(live.admins, key, _peer(inbound), live.has_trusted_proxies)
    return _admitted(inbound, caller, live)


def node(live: Live, inbound: Inbound) -> Caller:
    """Raises InvalidApiKey."""
    key = presented_key(inbound.request.header, "X-RoleMesh-Node-Key")
    caller = access.admit_node(live.nodes, key, _peer(inbound), live.has_trusted_proxies)
    return _admitted(inbound, caller, live)


def _admitted(inbound: Inbound, caller: Caller, live: Live) -> Caller:
    inbound.line.caller = caller.name
    if live.trusted_proxies:
        inbound.line.peer = _behind_proxies(inbound, live.trusted_proxies)
    return caller


def _client_key(request: Request) -> str | None:
    return presented_key(request.header, "X-Api-Key")


def _peer(inbound: Inbound) -> Peer:
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


def _behind_proxies(inbound: Inbound, trusted: Sequence[Network]) -> str | None:
    """The last address that no trusted proxy vouches for another one behind."""
    address = inbound.request.peer
    hops = [
        hop.strip()
        for value in inbound.request.headers("X-Forwarded-For")
        for hop in value.split(",")
    ]
    while hops and address is not None and access.address_allowed(address, trusted):
        try:
            address = str(ip_address(hops.pop()))
        except ValueError:
            break
    return address
