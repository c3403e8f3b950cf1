"""What the node works by now: the configuration, compiled. A reload replaces the whole value."""

from __future__ import annotations

from attrs import frozen

from rolemesh.config.compile import keyring
from rolemesh.config.compile_node import child_timeouts
from rolemesh.config.schema_node import NodeFile
from rolemesh.core.access import Key, Keyring, digest_of
from rolemesh.core.types import Caller, Timeouts

GATEWAY = Caller("gateway")


@frozen
class Live:
    """`gateways`: the token that they come in with. `operators`: node.api_keys."""

    config: NodeFile
    node_id: str
    gateways: Keyring
    operators: Keyring
    timeouts: Timeouts

    @property
    def max_body_bytes(self) -> int:
        return self.config.node.max_body_bytes

    @property
    def id_header(self) -> str:
        return self.config.node.request_id_header


def live_of(config: NodeFile, node_id: str, access_token: str) -> Live:
    return Live(
        config=config,
        node_id=node_id,
        gateways=Keyring([Key(digest_of(access_token), GATEWAY)]),
        operators=keyring(config.node.api_keys),
        timeouts=child_timeouts(config.timeouts),
    )
