"""What the long runs stand on: a gateway as it comes, and an upstream that fails on demand.

The configuration has an alias for each thing that is to happen; what is not said is the default.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define

from benchmarks.gateways import CLIENT_KEY
from benchmarks.process import Process, free_port
from benchmarks.script import MODEL
from benchmarks.soak.watched import FILE, TRACE

PLAIN = MODEL  # one backend, in order
FOUND = "found"  # discovered: a node that registered
BACKED = "backed"  # the first backend is dead, the second serves
FAULTY = "faulty"  # one backend, asked for faults
HASTY = "hasty"  # the same, and a silent one is given up soon
DEAD = "dead"  # nobody listens there
HASTE_S = 1.0
KEYS = (("Authorization", f"Bearer {CLIENT_KEY}"),)


@define
class Place:
    """The gateway under soak. `port`: its own; `path`: its configuration."""

    directory: Path
    process: Process
    port: int
    upstream_port: int
    dead_port: int

    @property
    def path(self) -> Path:
        return self.directory / "gateway.yaml"

    @property
    def window(self) -> Path:
        return self.directory / "window"

    @property
    def log(self) -> Path:
        return self.directory / "gateway.log"

    @property
    def pid(self) -> int:
        return self.process.pids[0]

    def configure(self, *extra: str) -> None:
        """Write the configuration, with `extra` aliases."""
        self.write(json.dumps(_config(self, extra)))  # JSON is YAML

    def write(self, text: str) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self.path)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@contextmanager
def running(directory: Path, trace: int = 0) -> Iterator[Place]:
    """`trace`: frames of each allocation that are remembered, to find a leak. It costs much."""
    argv = (sys.executable, "-m", "benchmarks.soak.upstream")
    with Process(argv, directory / "upstream.log") as upstream, _nobody() as dead_port:
        upstream_port = int(upstream.wait_for_line())
        port = free_port()
        env = {FILE: str(directory / "window")} | ({TRACE: str(trace)} if trace else {})
        place = Place(directory, upstream, port, upstream_port, dead_port)
        place.configure()
        gateway = (sys.executable, "-m", "benchmarks.soak.watched", "gateway", "--config")
        with Process((*gateway, str(place.path)), place.log, env) as process:
            process.wait_for_port(port)
            place.process = process
            yield place


def _config(place: Place, extra: tuple[str, ...]) -> dict[str, object]:
    url = f"http://127.0.0.1:{place.upstream_port}"
    dead = f"http://127.0.0.1:{place.dead_port}"
    backends = [{"name": "dead", "base_url": dead}, {"name": "good", "base_url": url}]
    haste = {"first_byte_s": HASTE_S, "idle_s": HASTE_S}
    return {
        "version": 1,
        "default_model": PLAIN,
        "gateway": {
            "host": "127.0.0.1",
            "port": place.port,
            "state_path": str(place.directory / "state.json"),
        },
        "auth": {"client_api_keys": [CLIENT_KEY]},
        "models": {
            PLAIN: {"proxy_url": url},
            FOUND: {"type": "discovered"},
            BACKED: {"backends": backends},
            FAULTY: {"proxy_url": url},
            HASTY: {"proxy_url": url, "timeouts": haste},
            DEAD: {"proxy_url": dead},
            **{name: {"proxy_url": url} for name in extra},
        },
    }


@contextmanager
def _nobody() -> Iterator[int]:
    """A port that is taken and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        yield port
