"""What the demo runs: a gateway and a node with two tiny models, as argvs and configurations.

Values, and the files they are in: nothing is started here. Every address is on loopback, every
port is free, every key is new, and the environment has nothing in it that would configure them
otherwise.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import field, frozen

ROLES = ("planner", "writer")

# What a shell, a service manager or a container may have set for another gateway, node or model.
_OTHERS_PREFIXES = ("ROLE_MESH_", "LLAMA_", "AIP_", "LISTEN_")
_OTHERS = {
    *("STATE_DIRECTORY", "XDG_STATE_HOME", "CREDENTIALS_DIRECTORY"),
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
}


@frozen
class Setup:
    """`folder` is the demo's own, and nobody else may read it."""

    folder: Path
    gateway_port: int
    node_port: int
    key: str = field(repr=False)
    node_key: str = field(repr=False)
    admin_key: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def node_url(self) -> str:
        return f"http://127.0.0.1:{self.node_port}"

    def write_models(self) -> None:
        """Blocks for a moment."""
        # An extra: the command line must load without it, to say what to install.
        tiny_model = importlib.import_module("rolemesh.builtin.tiny_model")
        for seed, role in enumerate(ROLES, start=1):
            tiny_model.write(self._model(role), name=f"{role}-tiny", seed=seed)

    def gateway(self) -> Sequence[str]:
        section = {"port": self.gateway_port, "state_path": str(self.folder / "gateway.json")}
        auth = {
            "client_api_keys": [{"name": "demo", "key": self.key}],
            "node_api_keys": [{"name": "demo", "key": self.node_key}],
            "admin_api_keys": [{"name": "demo", "key": self.admin_key}],
        }
        models = {role: {"type": "discovered"} for role in ROLES}
        return self._daemon("gateway", section, default_model=ROLES[0], auth=auth, models=models)

    def node(self) -> Sequence[str]:
        section = {
            "node_id": "demo",
            "port": self.node_port,
            "state_path": str(self.folder / "node.json"),
            "api_keys": [{"name": "demo", "key": self.admin_key}],
        }
        # More threads make so small a model slower; it needs no prompt cache either.
        small = {"ctx_size": 4096, "parallel": 2, "args": ["--threads", "2", "--cache-ram", "0"]}
        models = [
            {"model_id": f"{role}-tiny", "path": str(self._model(role)), "roles": [role], **small}
            for role in ROLES
        ]
        return self._daemon(
            "node", section,
            gateways=[{"url": self.url, "node_key": self.node_key}],
            llama_server={"path": "builtin"}, gpus="none", models=models,
        )  # fmt: skip

    def _model(self, role: str) -> Path:
        return self.folder / f"{role}.gguf"

    def _daemon(self, word: str, section: Mapping[str, Any], **more: Any) -> Sequence[str]:
        """Its argv; writes its configuration first."""
        path = self.folder / f"{word}.yaml"
        config = {"version": 1, word: {**section, "drain_timeout_s": 2}, **more}
        path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        return [sys.executable, "-m", "rolemesh", word, "--config", str(path)]


def prepare(folder: Path) -> Setup:
    gateway_port, node_port = _free_ports(2)
    keys = (f"demo-{who}-{secrets.token_urlsafe(12)}" for who in ("client", "node", "admin"))
    return Setup(folder, gateway_port, node_port, *keys)


def environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OTHERS and not name.startswith(_OTHERS_PREFIXES)
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        # All open at once, so that no two are the same.
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        for server in servers:
            stack.enter_context(server)
        return [server.getsockname()[1] for server in servers]
