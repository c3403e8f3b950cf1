"""What becomes of a run in which a gateway fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import frozen

from benchmarks import runner
from benchmarks.adapter import Launch
from benchmarks.figures import Sample, of, unfinished, void
from benchmarks.job import Job
from benchmarks.workloads import Workload, requests, streams

WORKS = (streams(events=2, at_once=2), requests(duration_s=0.05, connections=2))
DIES_AFTER_ITS_FIRST_TEN = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from benchmarks.script import expected, script_in
left = 10
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        global left
        if not left:
            os._exit(3)
        left -= 1
        body = expected(script_in(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@frozen
class Failing:
    program: str
    may_fail: bool = True
    name: str = "failing"
    headers: tuple[tuple[str, str], ...] = (("X-Through", "a gateway"),)
    setting: str = ""
    install: str = ""

    def version(self) -> str | None:
        return "1"

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        return Launch((sys.executable, "-c", self.program, str(port)))


@frozen
class OnlyThroughAGateway(Workload):
    """The harness fails where it is to be done without one."""

    def after(self, earlier: Sequence[Sample]) -> Workload | None:
        return self if earlier else None

    def at(self, port: int, headers: tuple[tuple[str, str], ...]) -> Job:
        if not headers:
            raise RuntimeError("the harness has no port left")
        return super().at(port, headers)


def ran(gateway: Failing, works: tuple[Workload, ...] = WORKS, rounds: int = 2) -> list[Sample]:
    return list(runner.run([gateway], works, rounds))


def test_one_that_may_fail_and_does_not_start_has_finished_nothing() -> None:
    samples = ran(Failing("raise SystemExit(3)"))
    assert void(samples, ["failing"]) == []
    assert [unfinished(samples, "failing", each.name) for each in WORKS] == ["it did not start"] * 2


def test_one_that_dies_is_started_anew_for_the_next_work_and_not_asked_again() -> None:
    samples = [each for each in ran(Failing(DIES_AFTER_ITS_FIRST_TEN)) if each.gateway == "failing"]
    assert [(each.round, each.workload) for each in samples] == [(0, "streams"), (0, "requests")]
    assert all(each.is_void for each in samples)
    assert of(samples, "failing", "streams") == []


def test_one_that_may_not_fail_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="does not listen"):
        ran(Failing("raise SystemExit(3)", may_fail=False))


def test_a_failure_of_the_harness_is_not_booked_as_the_gateways() -> None:
    first = requests(duration_s=0.05, connections=1)
    second = OnlyThroughAGateway("beside", "", "request", first.job, beside=True)
    lasting = DIES_AFTER_ITS_FIRST_TEN.replace("left = 10", "left = 10**9")
    with pytest.raises(RuntimeError, match="no port left"):
        ran(Failing(lasting), (first, second))


def test_what_a_failing_gateway_has_said_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    says = "print('out of luck', flush=True)\n            "
    ran(Failing(DIES_AFTER_ITS_FIRST_TEN.replace("os._exit", f"{says}os._exit")))
    assert "out of luck" in capsys.readouterr().err


def test_the_first_error_of_one_that_may_not_fail_is_the_end() -> None:
    samples = ran(Failing(DIES_AFTER_ITS_FIRST_TEN, may_fail=False))
    assert void(samples) == samples[-1:]
    assert samples[-1].workload == "streams"
