"""How many function calls a request and a streamed event cost RoleMesh, counted.

Unlike times they are nearly the same on every machine, however busy it is: a change that makes the
hot path longer shows in them, and CI holds them within bounds. They say nothing about what a call
costs. `python -m benchmarks.calls` prints them for both lanes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from attrs import evolve, frozen

from benchmarks.gateways import RoleMesh
from benchmarks.process import START_S, STOP_S, free_port
from benchmarks.runner import Upstream
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
    upstream = Upstream(directory)
    port = free_port()
    try:
        with (
            _gateway(directory, port, upstream.port, fast_lane) as process,
            closing(HTTPConnection("127.0.0.1", port, timeout=START_S)) as connection,
        ):
            asker = _Asker(process, connection)
            asker.ask(_WHOLE, WARM_UP)
            asker.ask(_LONG, 1)
            request = asker.calls(_WHOLE, ASKED)
            events = asker.calls(_LONG, STREAMED) - asker.calls(_SHORT, STREAMED)
    finally:
        upstream.stop()
    return Calls(request / ASKED, events / STREAMED / (_LONG.events - _SHORT.events))


@contextmanager
def _gateway(
    directory: Path, port: int, upstream_port: int, fast_lane: bool
) -> Iterator[subprocess.Popen[str]]:
    launch = RoleMesh().prepare(directory, port, upstream_port)
    lane = directory / "lane.yaml"
    lane.write_text(json.dumps({"gateway": {"fast_lane": fast_lane}}))  # JSON is YAML
    argv = ["benchmarks.counted" if each == "rolemesh" else each for each in launch.argv]
    with (
        (directory / "counted.log").open("wb") as log,
        subprocess.Popen(
            [*argv, "--config-override", str(lane)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            bufsize=1,
        ) as process,
    ):
        try:
            _wait_for(port)
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=STOP_S)


def _wait_for(port: int) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise RuntimeError("the gateway does not listen")


class _Asker:
    def __init__(self, process: subprocess.Popen[str], connection: HTTPConnection) -> None:
        self._process = process
        self._connection = connection
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
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the gateway has no pipes")
        self._process.stdin.write("how many\n")
        return int(self._process.stdout.readline())


def main() -> None:
    for name, fast_lane in (("fast lane", True), ("aiohttp", False)):
        with tempfile.TemporaryDirectory(prefix="rolemesh-calls-") as directory:
            calls = counted(Path(directory), fast_lane=fast_lane)
        print(f"{name}: {calls.per_request:.1f} a request, {calls.per_event:.1f} an event")


if __name__ == "__main__":
    main()
