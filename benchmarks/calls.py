"""How many function calls a request and a streamed event cost RoleMesh, counted.

Unlike times they are nearly the same on every machine: a change that makes the hot path longer
shows in them, and CI holds them within bounds. They say nothing about what a call costs.
`python -m benchmarks.calls` prints them for both lanes.
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from attrs import evolve, frozen

from benchmarks.backend import backend
from benchmarks.counted import PORT
from benchmarks.gateways import RoleMesh
from benchmarks.process import START_S, Process, end_on_signals, free_port
from benchmarks.script import PATH, Script, expected, request_body

WARM_UP, ASKED, STREAMED = 20, 200, 3
_WHOLE = Script(answer_bytes=920)
_SHORT = Script(answer_bytes=230, events=2, gap_ms=2)
_LONG = evolve(_SHORT, events=102)


@frozen
class Calls:
    """What one more request, and one more event of a stream, adds."""

    per_request: float
    per_event: float


def counted(directory: Path, *, fast_lane: bool) -> Calls:
    """Of a gateway as it comes, one request after the other on one connection."""
    with (
        backend(directory) as upstream,
        _gateway(directory, upstream.port, fast_lane) as (port, counter_port),
        closing(HTTPConnection("127.0.0.1", port, timeout=START_S)) as connection,
    ):
        asker = _Asker(connection, counter_port)
        asker.ask(_WHOLE, WARM_UP)
        asker.ask(_LONG, 1)
        request = asker.calls(_WHOLE, ASKED)
        events = asker.calls(_LONG, STREAMED) - asker.calls(_SHORT, STREAMED)
    return Calls(request / ASKED, events / STREAMED / (_LONG.events - _SHORT.events))


@contextmanager
def _gateway(directory: Path, upstream_port: int, fast_lane: bool) -> Iterator[tuple[int, int]]:
    """Its port, and the one where its calls are told."""
    port, counter_port = free_port(), free_port()
    launch = RoleMesh().prepare(directory, port, upstream_port)
    lane = directory / "lane.yaml"
    lane.write_text(json.dumps({"gateway": {"fast_lane": fast_lane}}))  # JSON is YAML
    argv = (*launch.argv_of("benchmarks.counted"), "--config-override", str(lane))
    with Process(argv, directory / "counted.log", {PORT: str(counter_port)}) as process:
        process.wait_for_port(port)
        yield port, counter_port


class _Asker:
    def __init__(self, connection: HTTPConnection, counter_port: int) -> None:
        self._connection = connection
        self._counter = "127.0.0.1", counter_port
        self._headers = {"Content-Type": "application/json", **dict(RoleMesh().headers)}

    def ask(self, script: Script, times: int) -> None:
        body = request_body(script, 1024)
        for _ in range(times):
            self._connection.request("POST", PATH, body, self._headers)
            if self._connection.getresponse().read() != expected(script):
                raise RuntimeError("another answer than expected")

    def calls(self, script: Script, times: int) -> int:
        """That the gateway makes meanwhile."""
        before = self._so_far()
        self.ask(script, times)
        return self._so_far() - before

    def _so_far(self) -> int:
        with socket.create_connection(self._counter, START_S) as told:
            return int(told.makefile().read())


def main() -> None:
    end_on_signals()
    for name, fast_lane in (("fast lane", True), ("aiohttp", False)):
        with tempfile.TemporaryDirectory(prefix="rolemesh-calls-") as directory:
            calls = counted(Path(directory), fast_lane=fast_lane)
        print(f"{name}: {calls.per_request:.1f} a request, {calls.per_event:.1f} an event")


if __name__ == "__main__":
    main()
