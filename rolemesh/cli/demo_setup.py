"""What the demo runs: ports, keys, argvs, environments and the gateway's configuration.

Values only: nothing is started here. Every address is on loopback, every port is free, every key is
new, and the environment of children has nothing in it that would configure them otherwise.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import field, frozen

from rolemesh.builtin import command, tiny_model_command

ALIASES = ("planner", "writer")

# What a shell, a service manager or a container may have set for another gateway or llama-server.
_OTHERS_PREFIXES = ("ROLE_MESH_", "LLAMA_", "AIP_", "LISTEN_")
_OTHERS = {
    *("STATE_DIRECTORY", "XDG_STATE_HOME", "CREDENTIALS_DIRECTORY"),
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
}


@frozen
class ModelServer:
    """One llama.cpp server: `alias` is what it is called by everyone."""

    alias: str
    port: int
    key: str = field(repr=False)
    model: Path
    seed: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write_model(self) -> list[str]:
        name = f"{self.alias}-tiny"
        return [*tiny_model_command(), str(self.model), "--name", name, "--seed", str(self.seed)]

    def serve(self) -> list[str]:
        flags = ["--model", str(self.model), "--alias", f"{self.alias}-tiny"]
        flags += ["--host", "127.0.0.1", "--port", str(self.port)]
        # More threads make so small a model slower; it needs no prompt cache either.
        flags += ["--ctx-size", "4096", "--parallel", "2", "--threads", "2", "--cache-ram", "0"]
        return [*command(), *flags, "--metrics", "--no-webui", "--sse-ping-interval", "1"]

    def environment(self) -> dict[str, str]:
        return {**environment(), "LLAMA_API_KEY": self.key}


@frozen
class Setup:
    folder: Path
    servers: tuple[ModelServer, ...]
    gateway_port: int
    key: str = field(repr=False)
    admin_key: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def gateway(self) -> list[str]:
        """The gateway's argv; writes its configuration first."""
        path = self.folder / "gateway.yaml"
        path.write_text(json.dumps(self._config()), encoding="utf-8")  # JSON is YAML
        return [sys.executable, "-m", "rolemesh", "gateway", "--config", str(path)]

    def _config(self) -> Mapping[str, Any]:
        return {
            "version": 1,
            "default_model": ALIASES[0],
            "gateway": {
                "host": "127.0.0.1",
                "port": self.gateway_port,
                "state_path": str(self.folder / "gateway.json"),
                "drain_timeout_s": 2,
            },
            "auth": {
                "client_api_keys": [{"name": "demo", "key": self.key}],
                "admin_api_keys": [{"name": "demo", "key": self.admin_key}],
            },
            "models": {
                server.alias: {"type": "proxy", "proxy_url": server.url, "auth_token": server.key}
                for server in self.servers
            },
        }


def prepare(folder: Path) -> Setup:
    """A setup of its own below `folder`, which only this user may read."""
    ports = _free_ports(len(ALIASES) + 1)
    servers = tuple(
        ModelServer(alias, port, secrets.token_urlsafe(24), folder / f"{alias}.gguf", seed)
        for seed, (alias, port) in enumerate(zip(ALIASES, ports, strict=False), start=1)
    )
    keys = (f"demo-{who}-{secrets.token_urlsafe(12)}" for who in ("client", "admin"))
    return Setup(folder, servers, ports[-1], *keys)


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
