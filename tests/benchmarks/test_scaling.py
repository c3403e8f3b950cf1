"""Clusters of two sizes side by side: that it is measured, not what comes out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from attrs import evolve

from benchmarks.figures import Sample
from benchmarks.job import Outcome
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling.cluster import BIG, SMALL, WIDE, Size, address, beat, node_id, registration
from benchmarks.scaling.fleet import Heard
from benchmarks.scaling.report import ONE_BY_ONE, Rest, Scaling, page
from benchmarks.scaling.visitor import LEAST_WAITS, PAGES, SCRIPT, one_by_one, visit
from benchmarks.script import MODEL, expected
from rolemesh.wire.registration import parse_heartbeat, parse_register


def test_a_run_measures_both_sizes_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaling.main(["--tiny", "--rounds", "1", "--out", str(tmp_path)]) == 0
    run = json.loads((tmp_path / "scaling.json").read_text())
    assert run["sizes"] == ["1x1", "20x10 wide"]
    seen = {(each["gateway"], each["workload"]): each for each in run["samples"]}
    assert set(seen) == {(size, work) for size in run["sizes"] for work in ("requests", ONE_BY_ONE)}
    assert all(each["outcome"]["failed"] == 0 and each["cpu_s"] > 0 for each in seen.values())
    small, big = run["rests"]
    assert big["pss_bytes"] > 0
    assert small["heard"]["failed"] == big["heard"]["failed"] == 0
    assert [each["path"] for each in big["pages"]] == list(PAGES)
    assert all(each["waited_s"] > 0 for each in big["pages"])
    assert "| GET /metrics |" in capsys.readouterr().out


def test_what_a_gateway_wrote_before_it_failed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no Python can start
    assert scaling.main(["--tiny", "--rounds", "1", "--out", str(tmp_path)]) == 1
    assert "does not listen" in capsys.readouterr().err
    assert (tmp_path / "failed-scaling" / "0-1x1" / "log").read_text()
    assert not (tmp_path / "scaling.json").exists()


@pytest.mark.parametrize(("size", "nodes"), [(BIG, 3), (WIDE, WIDE.nodes)])
def test_every_alias_has_nodes_and_in_a_wide_cluster_the_first_has_all(
    size: Size, nodes: int
) -> None:
    told = [parse_register(registration(size, node, 18_000)) for node in range(size.nodes)]
    roles = [{role for model in each.served_models for role in model.roles} for each in told]
    assert set().union(*roles) == set(size.models)
    assert sum(MODEL in each for each in roles) == nodes
    assert len({each.url for each in told}) == len({each.node_id for each in told}) == BIG.nodes
    assert {len(name) for name in BIG.models} == {len(MODEL)}


def test_a_heartbeat_tells_of_models_and_devices_and_differs_from_the_one_before() -> None:
    first, second = (parse_heartbeat(beat(SMALL, 0, number)) for number in range(2))
    assert first.node_id == second.node_id == node_id(0)
    assert first.metrics is not None
    assert len(first.metrics["devices"]) == 2
    assert first.metrics != second.metrics
    assert first.served_models != second.served_models


def test_every_node_has_an_address_of_its_own() -> None:
    assert (address(0), address(249), address(250)) == ("127.1.0.1", "127.1.0.250", "127.1.1.1")


def test_what_heartbeats_cost_meanwhile_is_no_cost_of_requests() -> None:
    sizes = Size(1, 1).name, Size(1000, 500).name
    run = Scaling(
        at="2026-01-01",
        rounds=1,
        sizes=sizes,
        titles={"requests": "Requests"},
        samples=tuple(
            _sample(size, work, cpu_s)
            for size, cpu_s in zip(sizes, (0.1, 0.2), strict=True)
            for work in ("requests", ONE_BY_ONE)
        ),
        rests=(_rest(sizes[0], 0.0), _rest(sizes[1], 0.45)),
    )
    assert [round(each.cpu_s, 6) for each in run.net] == [0.1, 0.1, 0.11, 0.11]
    row = "| 1000x500 | 1,100.0 (1,100.0 to 1,100.0) µs | 1.10 (1.10 to 1.10) | 2,000.0 µs |"
    assert row in page(run)


def test_what_one_client_costs_is_of_the_second_time_alone_and_so_is_how_long_it_takes() -> None:
    with answering(first_s=0.5) as port:
        spent = one_by_one(port, (MODEL,), 3, (os.getpid(),))
    assert spent.elapsed_s < 0.5


@pytest.mark.parametrize("answers", [3, LEAST_WAITS])
def test_a_client_that_fails_beside_a_page_is_a_failure_and_ends(answers: int) -> None:
    with answering(answers=answers) as port, pytest.raises((RuntimeError, OSError)):
        visit("/health", port, (os.getpid(),), pause_s=0.0)


def test_a_page_that_fails_ends_the_client_beside_it() -> None:
    with answering(pages=1) as port, pytest.raises(RuntimeError, match="GET /health answered 500"):
        visit("/health", port, (os.getpid(),), pause_s=0.0)


@pytest.mark.parametrize(("beats", "failed"), [(0, 1), (949, 1), (960, 0), (1000, 0), (1001, 0)])
def test_nodes_whose_heartbeats_are_missing_spoil_the_run(beats: int, failed: int) -> None:
    heard = Heard(beats=beats)
    heard.expect(due=1002)
    assert heard.failed == failed
    rest = evolve(_rest("1000x500", 0.1), heard=heard)
    assert len(scaling.faults([], rest)) == failed


def test_a_work_that_came_to_nothing_spoils_the_run_without_a_word_of_its_own() -> None:
    sample = evolve(_sample("1x1", "requests", 0.1), units=0)
    told = scaling.faults([sample], _rest("1x1", 0.1))
    assert told == ["1x1, requests: nothing came back"]


@contextmanager
def answering(first_s: float = 0.0, answers: int = 1000, pages: int = 1000) -> Iterator[int]:
    """A gateway that answers so many requests, the first after so long, and so many pages."""
    left = {"POST": answers, "GET": pages}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            left["GET"] -= 1
            self.send(200 if left["GET"] >= 0 else 500, b"{}")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if left["POST"] == answers:
                time.sleep(first_s)
            left["POST"] -= 1
            if left["POST"] < 0:
                self.close_connection = True
                return
            self.send(200, expected(SCRIPT))

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


def _sample(size: str, work: str, cpu_s: float) -> Sample:
    outcome = Outcome(100, 0, 0, (), elapsed_s=2.0, cpu_s=0.1)
    return Sample(size, work, 0, 100, cpu_s, 0.0, 0, None, outcome)


def _rest(size: str, cpu_s: float) -> Rest:
    return Rest(size, 0, 0.3, 0.3, 0.1, 2**25, 10.0, cpu_s, Heard(), ())
