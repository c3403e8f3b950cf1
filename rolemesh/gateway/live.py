"""What the gateway works by now: the configuration, compiled. A reload replaces the whole value.

A request takes the `Live` of the moment it begins with, and keeps it to its end.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from attrs import frozen

from rolemesh.config.compile import aliases, default_alias, keyring, trusted
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.core.access import Keyring
from rolemesh.core.lease import Lease
from rolemesh.core.routing import Table
from rolemesh.core.types import Network


@frozen
class Live:
    config: GatewayFile
    table: Table
    clients: Keyring
    nodes: Keyring
    admins: Keyring
    trusted_proxies: tuple[Network, ...]

    @property
    def max_body_bytes(self) -> int:
        return self.config.gateway.max_body_bytes

    @property
    def has_trusted_proxies(self) -> bool:
        return bool(self.config.gateway.trusted_proxies)

    @property
    def labels(self) -> list[str]:
        """Of every configured backend."""
        return [each.backend.label for alias in self.table.aliases for each in alias.backends]

    def labels_with(self, leases: Iterable[Lease]) -> list[str]:
        """And of these nodes."""
        return [*self.labels, *(lease.node_id for lease in leases)]


def live_of(config: GatewayFile) -> Live:
    """Blocks while it resolves the names among `trusted_proxies`: not for the event loop."""
    networks, names = trusted(config)
    resolved = tuple(network for name in names for network in _resolve(name))
    return Live(
        config=config,
        table=Table(aliases(config), default_alias(config)),
        clients=keyring(config.auth.client_api_keys),
        nodes=keyring(config.auth.node_api_keys),
        admins=keyring(config.auth.admin_api_keys),
        trusted_proxies=networks + resolved,
    )


def _resolve(name: str) -> tuple[Network, ...]:
    """A name without an address is believed from nowhere."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(ip_network(ip_address(address[4][0])) for address in found)
