"""From a node's checked configuration to what follows from it: its name, its places, its URL.

What is left out in the file is filled in here, once, the same for `rolemesh node` and its --check.
Pure; keys become a keyring by `compile.keyring`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from rolemesh.config.compile import state_path
from rolemesh.config.schema_node import NodeFile, NodeSection, NodeTimeouts
from rolemesh.core.types import BaseUrl, ServedModel, Timeouts

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NODE_ID_LENGTH = 64


def node_id(config: NodeFile, host_name: str) -> str:
    """As configured, else the host's name, made to fit what gateways take."""
    if config.node.node_id is not None:
        return config.node.node_id
    return _UNFIT.sub("-", host_name)[:_MAX_NODE_ID_LENGTH].strip("-.") or "node"


def node_state_path(config: NodeFile, host_name: str, env: Mapping[str, str]) -> str:
    """Where the node's state is kept. Two nodes of one user have two files, for they have two
    names."""
    name = f"node-{node_id(config, host_name)}.json"
    return state_path(config.node.state_path, name, env)


def log_dir(config: NodeFile, host_name: str, env: Mapping[str, str]) -> str:
    """Where children's logs are kept: as configured, else beside the state, under its name."""
    if config.node.log_dir is not None:
        return config.node.log_dir
    return os.path.splitext(node_state_path(config, host_name, env))[0] + "-logs"


def offered(config: NodeFile) -> tuple[ServedModel, ...]:
    """The models as a gateway is told of them, less what changes while the node runs."""
    return tuple(ServedModel(each.model_id, each.roles, each.meta) for each in config.models)


def base_url(node: NodeSection, port: int) -> BaseUrl:
    """How gateways reach the node, which listens on `port`."""
    if node.advertise_url is not None:
        return node.advertise_url
    return BaseUrl("http" if node.tls is None else "https", node.host, port)


def child_timeouts(configured: NodeTimeouts) -> Timeouts:
    """Those of one exchange with a child."""
    return Timeouts(
        connect_s=configured.connect_s,
        first_byte_s=configured.first_byte_s,
        idle_s=configured.idle_s,
    )
