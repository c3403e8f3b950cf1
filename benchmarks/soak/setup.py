"""What the long runs stand on: a gateway as it comes, and an upstream that fails on demand.

The configuration has an alias for each thing that is to happen; what is not said is the default.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from benchmarks.adapter import Launch
from benchmarks.backend import backend
from benchmarks.gateways import CLIENT_KEY, RoleMesh, rolemesh
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
KEYS = RoleMesh().headers


@define
class Place:
    """The gateway under soak. `port`: its own. `process`: once it has been started."""

    directory: Path
    port: int
    upstream_port: int
    dead_port: int
    process: Process = field(init=False)

    @property
    def window(self) -> Path:
        return self.directory / "window"

    @property
    def log(self) -> Path:
        return self.directory / "gateway.log"

    @property
    def pid(self) -> int:
        return self.process.pids[0]

    def configure(self, *extra: str) -> Launch:
        """Write the configuration, with `extra` aliases. It is read when the gateway is told to."""
        auth = {"client_api_keys": [CLIENT_KEY]}
        return rolemesh(self.directory, self.port, auth, _models(self, extra))

    def break_configuration(self) -> None:
        (self.directory / "gateway.yaml").write_text("models: [")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@contextmanager
def running(directory: Path, trace: int = 0) -> Iterator[Place]:
    """`trace`: frames of each allocation that are remembered, to find a leak. It costs much."""
    with backend(directory, "benchmarks.soak.upstream") as upstream, _nobody() as dead_port:
        place = Place(directory, free_port(), upstream.port, dead_port)
        watched = place.configure().argv_of("benchmarks.soak.watched")
        env = {FILE: str(place.window)} | ({TRACE: str(trace)} if trace else {})
        with Process(watched, place.log, env) as place.process:
            place.process.wait_for_port(place.port)
            yield place


def _models(place: Place, extra: tuple[str, ...]) -> dict[str, object]:
    url = f"http://127.0.0.1:{place.upstream_port}"
    dead = f"http://127.0.0.1:{place.dead_port}"
    backends = [{"name": "dead", "base_url": dead}, {"name": "good", "base_url": url}]
    haste = {"first_byte_s": HASTE_S, "idle_s": HASTE_S}
    return {
        PLAIN: {"proxy_url": url},
        FOUND: {"type": "discovered"},
        BACKED: {"backends": backends},
        FAULTY: {"proxy_url": url},
        HASTY: {"proxy_url": url, "timeouts": haste},
        DEAD: {"proxy_url": dead},
        **{name: {"proxy_url": url} for name in extra},
    }


@contextmanager
def _nobody() -> Iterator[int]:
    """A port that is taken and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        yield port
