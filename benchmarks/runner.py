"""The run: every gateway meets the same work, interleaved, round after round.

In each round each gateway is started afresh, does all workloads and is ended, so that none of them
idles beside another's measurement; their order moves on by one per round. `direct` is the load
generator on the upstream itself, without a gateway: the proof of what the harness can do.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.figures import Sample
from benchmarks.gateways import Gateway
from benchmarks.measure import Measured, measure
from benchmarks.process import Process, free_port, pss_bytes
from benchmarks.script import PATH, Script, expected, request_body
from benchmarks.workloads import Workload

DIRECT = "direct"
_FIRST = (Script(answer_bytes=920), Script(answer_bytes=230, events=3, gap_ms=1)) * 5

Told = Callable[[Sample], None]


class Upstream:
    """The upstream's process, the same one for the whole run."""

    def __init__(self, directory: Path) -> None:
        argv = (sys.executable, "-m", "benchmarks.upstream")
        self._process = Process(argv, directory / "upstream.log")
        self.port = int(self._process.wait_for_line())

    @property
    def pids(self) -> tuple[int, ...]:
        return self._process.pids

    def stop(self) -> None:
        self._process.stop()


def run(
    gateways: Sequence[Gateway], workloads: Sequence[Workload], rounds: int, told: Told
) -> list[Sample]:
    """`told` hears of each sample as it is taken. Raises RuntimeError when a gateway fails."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="rolemesh-bench-") as name:
        directory = Path(name)
        upstream = Upstream(directory)
        try:
            for number in range(rounds):
                for sample in _round(number, gateways, workloads, upstream, directory):
                    samples.append(sample)
                    told(sample)
        finally:
            upstream.stop()
    return samples


def _round(
    number: int,
    gateways: Sequence[Gateway],
    workloads: Sequence[Workload],
    upstream: Upstream,
    directory: Path,
) -> Iterator[Sample]:
    shift = number % len(gateways)
    for workload in workloads:
        measured = measure(workload.at(upstream.port, ()), (), upstream.pids)
        yield _sample(DIRECT, workload, number, measured, 0)
    for gateway in (*gateways[shift:], *gateways[:shift]):
        place = directory / f"{number}-{gateway.name}"
        place.mkdir()
        with _running(gateway, upstream.port, place) as (process, port):
            _first_requests(gateway, port)
            base = pss_bytes(process.pids)
            for workload in workloads:
                job = workload.at(port, gateway.headers)
                measured = measure(job, process.pids, upstream.pids)
                yield _sample(gateway.name, workload, number, measured, base)


@contextmanager
def _running(gateway: Gateway, upstream_port: int, place: Path) -> Iterator[tuple[Process, int]]:
    port = free_port()
    launch = gateway.prepare(place, port, upstream_port)
    with Process(launch.argv, place / "log", launch.env) as process:
        process.wait_for_port(port)
        yield process, port


def _first_requests(gateway: Gateway, port: int) -> None:
    """What a gateway does once only is behind it when its memory is first read."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json", **dict(gateway.headers)}
    for script in _FIRST:
        connection.request("POST", PATH, request_body(script, 1024), headers)
        answer = connection.getresponse()
        if answer.read() != expected(script):
            raise RuntimeError(f"{gateway.name} answered {answer.status} and not as expected")
    connection.close()


def _sample(gateway: str, workload: Workload, number: int, measured: Measured, base: int) -> Sample:
    outcome = measured.outcome
    opened = measured.pss_open_bytes
    return Sample(
        gateway=gateway,
        workload=workload.name,
        round=number,
        units=workload.units(outcome.answers, outcome.events),
        cpu_s=measured.cpu_s,
        upstream_cpu_s=measured.upstream_cpu_s,
        pss_base_bytes=base,
        pss_per_stream_bytes=None if opened is None else (opened - base) / workload.job.connections,
        outcome=outcome,
    )
