"""The harness itself: it measures what is there, and sees what goes wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from benchmarks import __main__ as command
from benchmarks import suites
from benchmarks.backend import Backend, backend
from benchmarks.gateways import GATEWAYS, RoleMesh
from benchmarks.job import Job
from benchmarks.measure import measure
from benchmarks.process import cpu_s, pss_bytes
from benchmarks.script import Script, expected

ROOT = Path(__file__).parents[2]
YARDSTICKS = [each for each in GATEWAYS if not each.may_fail]
WHOLE = Script(answer_bytes=920)
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 920\r\n\r\n" + expected(WHOLE)
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Backend]:
    with backend(tmp_path) as started:
        yield started


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server of one connection: it answers each read with the next of `answers`, then closes."""

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            for answer in answers:
                connection.recv(65_536)
                connection.sendall(answer)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(10)


def test_a_run_measures_the_gateway_and_writes_json_and_a_page(tmp_path: Path) -> None:
    argv = ["--tiny", "--rounds", "1", "--gateway", "rolemesh", "--out", str(tmp_path)]
    assert command.main(argv) == 0
    samples = json.loads((tmp_path / "performance.json").read_text())["samples"]
    seen = {(each["gateway"], each["workload"]): each for each in samples}
    works = {each.name for each in suites.tiny()}
    expected = set(itertools.product(("direct", "rolemesh"), works))
    assert set(seen) == expected - {("direct", "latency"), ("direct", "latency-streams")}
    assert all(each["outcome"]["failed"] == 0 for each in samples)
    assert seen["rolemesh", "streams"]["units"] == 20
    assert seen["rolemesh", "requests"]["cpu_s"] > 0
    assert 30 <= seen["rolemesh", "paced"]["units"] <= 44  # 200 a second for 0.2 s, and not more
    assert seen["rolemesh", "latency"]["beside"]["answers"] > 0
    assert seen["rolemesh", "idle"]["outcome"]["idle_closed"] == 0
    written = (tmp_path / "performance.md").read_text()
    assert "| rolemesh |" in written
    assert (
        f"\npython -m benchmarks --tiny --rounds 1 --gateway rolemesh --out {tmp_path}" in written
    )
    again = tmp_path / "again"
    assert command.main(["--from", str(tmp_path / "performance.json"), "--out", str(again)]) == 0
    assert (again / "performance.md").read_text() == written


def test_a_run_that_breaks_off_says_why_and_leaves_earlier_figures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "uvloop.py").write_text("raise SystemExit('no loop today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # so that the upstream does not start
    (tmp_path / "performance.json").write_text("earlier")
    argv = ["--tiny", "--rounds", "1", "--gateway", "rolemesh", "--out", str(tmp_path)]
    assert command.main(argv) == 1
    assert "no loop today" in capsys.readouterr().err
    assert (tmp_path / "performance.json").read_text() == "earlier"
    assert (tmp_path / "performance.void.json").exists()


def test_the_full_run_puts_the_pages_of_earlier_long_runs_into_its_own(tmp_path: Path) -> None:
    pages = [tmp_path / "soak.md", tmp_path / "scaling.md"]
    for each in pages:
        each.touch()
    argv = ["make", "--dry-run", "bench-full", f"BENCH_OUT={tmp_path}"]
    told = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert " ".join(f"--section {each}" for each in pages) in told
    assert "streams.md" not in told


@pytest.mark.parametrize("gateway", YARDSTICKS, ids=lambda each: each.name)
def test_every_gateway_is_configured_for_one_upstream(gateway: RoleMesh, tmp_path: Path) -> None:
    launch = gateway.prepare(tmp_path, 18_000, 18_001)
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert "18000" in written
    assert "127.0.0.1:18001" in written
    assert str(tmp_path) in " ".join(launch.argv)


def test_the_generator_counts_what_came_in_order(upstream: Backend) -> None:
    script = Script(answer_bytes=230, events=5, gap_ms=1)
    job = Job(upstream.port, script, connections=3, warm_up=WHOLE, warm_up_s=0.05)
    outcome = measure(job, (), upstream.pids).outcome
    assert (outcome.answers, outcome.events, outcome.failed) == (3, 15, 0)
    assert 0 < outcome.first_byte.p50 <= outcome.duration.p50


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (GOOD.replace(b"200 OK", b"502 Bad"), "HTTP 502"),
        (GOOD.replace(b"word", b"w0rd", 1), "another body than expected (920 bytes)"),
        (GOOD.replace(b"920", b"919")[:-1], "another body than expected (919 bytes)"),
        (GOOD + GOOD, "another body than expected (1840 bytes)"),
        (GOOD + EMPTY, "another body than expected (920 bytes)"),
        (GOOD[:-1], "the connection was lost"),
        (b"hello", "not HTTP: Expected HTTP/"),
    ],
)
def test_an_answer_that_is_not_as_expected_is_an_error(answer: bytes, words: str) -> None:
    with answering(answer) as port:
        outcome = measure(Job(port, WHOLE, connections=1), (), ()).outcome
    assert (outcome.answers, outcome.failed) == (0, 1)
    assert outcome.errors[0].startswith(words)


def test_a_second_answer_that_is_empty_is_seen_where_json_is_made_anew_too() -> None:
    with answering(GOOD + EMPTY) as port:
        outcome = measure(Job(port, WHOLE, connections=1, rewritten=True), (), ()).outcome
    assert (outcome.answers, outcome.failed) == (0, 1)


def test_an_error_during_the_warm_up_counts() -> None:
    bad = GOOD.replace(b"200", b"500")
    with answering(bad) as port:
        outcome = measure(Job(port, WHOLE, connections=1, warm_up=WHOLE), (), ()).outcome
    assert outcome.failed >= 1
    assert outcome.errors[0] == "HTTP 500"


def test_a_request_that_comes_late_has_waited_since_it_was_due(upstream: Backend) -> None:
    """An answer takes 0.2 s and a request is due every 0.1 s: the second is 0.1 s late."""
    slow = Script(answer_bytes=230, events=2, gap_ms=100)
    job = Job(upstream.port, slow, connections=1, duration_s=0.25, pace_s=0.1)
    outcome = measure(job, (), upstream.pids).outcome
    assert outcome.answers >= 2
    assert outcome.first_byte.p99 >= 0.09


def test_idle_connections_that_were_closed_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in ("the idle one", "the one that works"):
                with listener.accept()[0] as connection:
                    connection.recv(65_536)
                    connection.sendall(GOOD)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        outcome = measure(Job(port, WHOLE, connections=1, idle=1), (), ()).outcome
        thread.join(10)
    assert (outcome.answers, outcome.failed, outcome.idle_closed) == (1, 0, 1)


def test_a_gateway_that_hangs_is_given_up() -> None:
    with answering(b"") as port:
        job = evolve(Job(port, WHOLE, connections=1), give_up_s=0.2)
        outcome = measure(job, (), ()).outcome
    assert outcome.failed == 1


def test_an_upstream_refuses_what_has_no_script(upstream: Backend) -> None:
    with socket.create_connection(("127.0.0.1", upstream.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_the_figures_of_a_process_are_the_kernels(upstream: Backend) -> None:
    assert 0 < cpu_s(upstream.pids) < 10
    assert pss_bytes(upstream.pids) > 2**20
