"""One life of a gateway's process: started for an upstream, asked ten requests, ended.

What a gateway does once only is then behind it, and its memory at rest can be read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from attrs import evolve, frozen

from benchmarks.adapter import Gateway
from benchmarks.job import Job
from benchmarks.meaning import says_as_expected
from benchmarks.process import Process, free_port, pss_bytes
from benchmarks.script import PATH, Script, expected, request_body
from benchmarks.workloads import Workload

READY_S = 10.0
_FIRST = (Script(answer_bytes=920), Script(answer_bytes=230, events=3, gap_ms=1)) * 5


@frozen
class Life:
    process: Process
    port: int
    headers: tuple[tuple[str, str], ...]
    rewrites: bool
    pss_base_bytes: int = 0

    def job(self, workload: Workload) -> Job:
        return evolve(workload.at(self.port, self.headers), rewritten=self.rewrites)


@contextmanager
def life(gateway: Gateway, upstream_port: int, place: Path) -> Iterator[Life]:
    """Raises RuntimeError, with its log, when it does not come to answering; what fails in its life
    becomes one as well."""
    port = free_port()
    launch = gateway.prepare(place, port, upstream_port)
    with Process(launch.argv, place / "log", launch.env) as process:
        process.wait_for_port(port, launch.start_s)
        alive = Life(process, port, (*gateway.headers, *launch.headers), launch.rewrites)
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                _first_requests(alive, connection)
            yield evolve(alive, pss_base_bytes=pss_bytes(process.pids))
        except (RuntimeError, OSError, HTTPException) as error:
            raise process.failed(f"({gateway.name}): {error!r}") from error


def _first_requests(alive: Life, connection: HTTPConnection) -> None:
    headers = {"Content-Type": "application/json", **dict(alive.headers)}
    ready_until = time.monotonic() + READY_S
    for script in _FIRST:
        status, body = _asked(connection, script, headers)
        # Some listen before they have found their backend.
        while status == HTTPStatus.SERVICE_UNAVAILABLE and time.monotonic() < ready_until:
            time.sleep(0.02)
            status, body = _asked(connection, script, headers)
        if status != HTTPStatus.OK or not _is_as_expected(body, script, alive.rewrites):
            raise RuntimeError(f"a first request was answered {status}, and not as expected")


def _asked(
    connection: HTTPConnection, script: Script, headers: dict[str, str]
) -> tuple[int, bytes]:
    connection.request("POST", PATH, request_body(script, 1024), headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _is_as_expected(body: bytes, script: Script, rewritten: bool) -> bool:
    return says_as_expected(body, script) if rewritten else body == expected(script)
