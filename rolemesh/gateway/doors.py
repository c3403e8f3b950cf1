"""Who stands at the door: the key and the peer of a request, and whom core/access says it is.

Called first by every handler, before anything else of a request is looked at.
"""

from __future__ import annotations

from rolemesh.core import access
from rolemesh.core.types import Caller
from rolemesh.errors import InvalidApiKey
from rolemesh.gateway.live import Live
from rolemesh.server.inbound import Inbound
from rolemesh.server.peer import behind_proxies, client_key, peer_of
from rolemesh.server.request import once
from rolemesh.wire.headers import presented_key


def client(live: Live, inbound: Inbound) -> Caller:
    """Raises InvalidApiKey."""
    return _admitted(
        inbound, access.admit_client(live.clients, once(inbound.request, client_key)), live
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
    key = once(inbound.request, client_key)
    caller = access.admit_admin(live.admins, key, peer_of(inbound), live.has_trusted_proxies)
    return _admitted(inbound, caller, live)


def node(live: Live, inbound: Inbound) -> Caller:
    """Raises InvalidApiKey."""
    key = presented_key(inbound.request.header, "X-RoleMesh-Node-Key")
    caller = access.admit_node(live.nodes, key, peer_of(inbound), live.has_trusted_proxies)
    return _admitted(inbound, caller, live)


def _admitted(inbound: Inbound, caller: Caller, live: Live) -> Caller:
    inbound.line.caller = caller.name
    if live.trusted_proxies:
        inbound.line.peer = behind_proxies(inbound, live.trusted_proxies)
    return caller
