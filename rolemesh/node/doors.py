"""Who stands at the node's doors: gateways and operators may ask for models, operators may do all.

Called first by every handler, before anything else of a request is looked at.
"""

from __future__ import annotations

from rolemesh.core import access
from rolemesh.core.types import Caller
from rolemesh.node.live import Live
from rolemesh.server.inbound import Inbound
from rolemesh.server.peer import client_key, peer_of
from rolemesh.server.request import once


def caller(live: Live, inbound: Inbound) -> Caller:
    """One who may ask for models. Raises InvalidApiKey."""
    key = once(inbound.request, client_key)
    found = None if key is None else live.gateways.find(key)
    if found is None:
        return operator(live, inbound)
    inbound.line.caller = found.name
    return found


def operator(live: Live, inbound: Inbound) -> Caller:
    """Raises InvalidApiKey."""
    key = once(inbound.request, client_key)
    found = access.admit_admin(live.operators, key, peer_of(inbound), trusted_proxies=False)
    inbound.line.caller = found.name
    return found
