"""The run: every gateway meets the same work, interleaved, round after round.

In each round each gateway is started afresh, does all works and is ended, so that none of them
idles beside another's measurement; their order moves on by one per round. `direct` is the load
generator on the upstream itself, without a gateway: the proof of what the harness can do.
A gateway that may fail and does is started anew for the next work, and is not asked for that one in
later rounds.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.figures import Sample, void
from benchmarks.gateways import Gateway
from benchmarks.job import Outcome
from benchmarks.life import Life, life
from benchmarks.measure import Measured, measure
from benchmarks.process import Process
from benchmarks.workloads import Work, Workload

DIRECT = "direct"

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
    gateways: Sequence[Gateway], works: Sequence[Work], rounds: int, told: Told
) -> list[Sample]:
    """`told` hears of each sample as it is taken; the first that spoils the run is the last. Raises
    RuntimeError when a gateway that may not fail does not start, and what else a run cannot do."""
    may_fail = [each.name for each in gateways if each.may_fail]
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="rolemesh-bench-") as name:
        directory = Path(name)
        upstream = Upstream(directory)
        try:
            whole = _Rounds(gateways, works, upstream, directory).samples(rounds)
            with closing(whole):
                for sample in whole:
                    samples.append(sample)
                    told(sample)
                    if void([sample], may_fail):
                        break
        finally:
            upstream.stop()
    return samples


class _Rounds:
    def __init__(
        self,
        gateways: Sequence[Gateway],
        works: Sequence[Work],
        upstream: Upstream,
        directory: Path,
    ) -> None:
        self._gateways = gateways
        self._works = works
        self._upstream = upstream
        self._directory = directory
        self._given_up: set[tuple[str, str]] = set()
        self._lives = itertools.count()

    def samples(self, rounds: int) -> Generator[Sample, None, None]:
        for number in range(rounds):
            shift = number % len(self._gateways)
            yield from self._without(number)
            for gateway in (*self._gateways[shift:], *self._gateways[:shift]):
                yield from self._through(gateway, number)

    def _without(self, number: int) -> Iterator[Sample]:
        for work in self._works:
            workload = work.after(())
            if workload is not None:
                yield _sample(DIRECT, workload, number, self._direct(workload))

    def _through(self, gateway: Gateway, number: int) -> Iterator[Sample]:
        left = deque(w for w in self._works if (gateway.name, w.name) not in self._given_up)
        done: list[Sample] = []
        while left:
            for sample in self._in_one_life(gateway, left, done, number):
                done.append(sample)
                if sample.is_void and gateway.may_fail:
                    self._given_up.add((gateway.name, sample.workload))
                yield sample

    def _in_one_life(
        self, gateway: Gateway, left: deque[Work], done: Sequence[Sample], number: int
    ) -> Iterator[Sample]:
        """Takes works off `left` until the next one needs a fresh gateway, or one failed."""
        place = self._directory / f"{next(self._lives)}-{gateway.name}"
        place.mkdir()
        work: Work | None = None
        try:
            with life(gateway, self._upstream.port, place) as alive:
                while work is None or (left and not left[0].fresh):
                    work = left.popleft()
                    workload = work.after(done)
                    if workload is None:
                        continue
                    sample = self._sample(gateway, workload, number, alive)
                    yield sample
                    if sample.is_void:
                        return
        except (RuntimeError, OSError) as error:
            if not gateway.may_fail:
                raise
            print(error, file=sys.stderr)
            if work is not None:
                yield _failed(gateway.name, work.name, number, "the load did not come to its end")
            while work is None and left:
                yield _failed(gateway.name, left.popleft().name, number, "it did not start")

    def _sample(self, gateway: Gateway, workload: Workload, number: int, alive: Life) -> Sample:
        measured = measure(alive.job(workload), alive.process.pids, self._upstream.pids)
        beside = self._direct(workload).outcome if workload.beside else None
        return _sample(gateway.name, workload, number, measured, alive.pss_base_bytes, beside)

    def _direct(self, workload: Workload) -> Measured:
        return measure(workload.at(self._upstream.port, ()), (), self._upstream.pids)


def _sample(
    gateway: str,
    workload: Workload,
    number: int,
    measured: Measured,
    base: int = 0,
    beside: Outcome | None = None,
) -> Sample:
    outcome, opened = measured.outcome, measured.pss_open_bytes
    return Sample(
        gateway=gateway,
        workload=workload.name,
        round=number,
        units=workload.units(outcome.answers, outcome.events),
        cpu_s=measured.cpu_s,
        upstream_cpu_s=measured.upstream_cpu_s,
        pss_base_bytes=base,
        pss_each_bytes=None if opened is None else (opened - base) / workload.open_at_once,
        outcome=outcome,
        beside=beside,
    )


def _failed(gateway: str, workload: str, number: int, why: str) -> Sample:
    outcome = Outcome(0, 0, failed=1, errors=(why,), elapsed_s=0.0, cpu_s=0.0)
    return Sample(gateway, workload, number, 0, 0.0, 0.0, 0, None, outcome)
