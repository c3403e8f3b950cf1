"""Whole meshes: real gateways and real nodes, whose children are the built-in llama.cpp.

`mesh.gateway()` and `mesh.node("a", gateway, model(...))` start them, and all are gone when the
test ends. A daemon keeps its port, so that it is found again when it was restarted; nodes are told
of every second, and stale after three.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import GatewayProcess, eventually
from tests.llama import Starter
from tests.node_process import NodeProcess

STALE_S = 3.0
KEY = "node-key-of-the-mesh"
ROLE = "critic"


class Mesh:
    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def gateway(
        self,
        name: str = "gateway",
        *,
        env: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        **config: Any,
    ) -> GatewayProcess:
        """One with the alias `critic`, unless `config` says more."""
        whole = {
            "registry": {"stale_after_s": STALE_S},
            "models": {ROLE: {"type": "discovered"}},
            "auth": {"node_api_keys": [{"name": "nodes", "key": KEY}]},
            **config,
            "gateway": {"port": steady_port(), **config.get("gateway", {})},
        }
        process = GatewayProcess(whole, self._place(name), env=env, tls=tls)
        return self._stack.enter_context(process)

    def node(
        self,
        node_id: str,
        *gateways: GatewayProcess,
        models: list[dict[str, Any]],
        env: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        **config: Any,
    ) -> NodeProcess:
        whole = {
            "gateways": [{"url": url_of(gateway), "node_key": KEY} for gateway in gateways],
            "models": models,
            **config,
            "node": {"node_id": node_id, "port": steady_port(), **config.get("node", {})},
        }
        process = NodeProcess(whole, self._place(node_id), env=env, tls=tls)
        return self._stack.enter_context(process)

    def _place(self, name: str) -> Path:
        place = self._folder / name
        place.mkdir()
        return place


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with contextlib.ExitStack() as stack:
        yield Mesh(tmp_path, stack)


@pytest.fixture(scope="session")
def tiny(llama_folder: Path) -> Path:
    """Loads and answers at once."""
    return Starter(llama_folder).model("tiny")


@pytest.fixture(scope="session")
def slow(llama_folder: Path) -> Path:
    """60 tokens a second: an answer can be interrupted."""
    return Starter(llama_folder).model("slow")


def steady_port() -> int:
    """A free one of those that the kernel gives to no connection, so that it is free again when a
    daemon comes back to it."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def url_of(daemon: GatewayProcess | NodeProcess) -> str:
    scheme = "http" if daemon.tls is None else "https"
    return f"{scheme}://{daemon.address[0]}:{daemon.address[1]}"


# What a gateway knows


def told_of(gateway: GatewayProcess, node_id: str) -> dict[str, Any]:
    """The node's entry in /v1/nodes; empty where there is none."""
    nodes: list[dict[str, Any]] = gateway.get("/v1/nodes").json()["nodes"]
    return next((node for node in nodes if node["node_id"] == node_id), {})


def model_states(gateway: GatewayProcess, node_id: str) -> dict[str, str]:
    served = told_of(gateway, node_id).get("served_models", [])
    return {model["model_id"]: model["state"] for model in served}


def wait_told(gateway: GatewayProcess, node_id: str, **states: str) -> None:
    """Until the gateway has been told that these models of a node are in these states."""
    eventually(lambda: states.items() <= model_states(gateway, node_id).items(), 20)


def wait_fresh(gateway: GatewayProcess, *node_ids: str) -> None:
    eventually(lambda: all(told_of(gateway, each).get("state") == "fresh" for each in node_ids), 10)
