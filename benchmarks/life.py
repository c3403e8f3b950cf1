"""One life of a gateway's process: started for an upstream, asked ten requests, ended.

What a gateway does once only is then behind it, and its memory at rest can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from attrs import frozen

from benchmarks.gateways import Gateway
from benchmarks.process import Process, free_port, pss_bytes
from benchmarks.script import PATH, Script, expected, request_body

_FIRST = (Script(answer_bytes=920), Script(answer_bytes=230, events=3, gap_ms=1)) * 5


@frozen
class Life:
    process: Process
    port: int
    pss_base_bytes: int


@contextmanager
def life(gateway: Gateway, upstream_port: int, place: Path) -> Iterator[Life]:
    """Raises RuntimeError when it does not come to answering."""
    port = free_port()
    launch = gateway.prepare(place, port, upstream_port)
    with Process(launch.argv, place / "log", launch.env) as process:
        process.wait_for_port(port)
        try:
            _first_requests(gateway, port)
        except (OSError, HTTPException) as error:
            raise RuntimeError(f"{gateway.name}, first requests: {error!r}") from error
        yield Life(process, port, pss_bytes(process.pids))


def _first_requests(gateway: Gateway, port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json", **dict(gateway.headers)}
    for script in _FIRST:
        connection.request("POST", PATH, request_body(script, 1024), headers)
        answer = connection.getresponse()
        if answer.read() != expected(script):
            raise RuntimeError(f"{gateway.name} answered {answer.status} and not as expected")
    connection.close()
