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
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from attrs import evolve

from benchmarks.adapter import Gateway
from benchmarks.backend import Backend, backend
from benchmarks.figures import DIRECT, Sample, void
from benchmarks.job import Outcome
from benchmarks.life import Life, life
from benchmarks.measure import Measured, measure
from benchmarks.workloads import Work, Workload


def run(
    gateways: Sequence[Gateway], works: Sequence[Work], rounds: int
) -> Generator[Sample, None, None]:
    """Each sample as it is taken; the first that spoils the run is the last. Raises RuntimeError
    when a gateway that may not fail does not start, and what else a run cannot do."""
    may_fail = [each.name for each in gateways if each.may_fail]
    with tempfile.TemporaryDirectory(prefix="rolemesh-bench-") as name:
        directory = Path(name)
        with (
            backend(directory) as upstream,
            closing(_Rounds(gateways, works, upstream, directory).samples(rounds)) as samples,
        ):
            for sample in samples:
                yield sample
                if void([sample], may_fail):
                    return


class _Rounds:
    def __init__(
        self,
        gateways: Sequence[Gateway],
        works: Sequence[Work],
        upstream: Backend,
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
            with closing(self._in_one_life(gateway, left, done, number)) as taken:
                for sample, workload in taken:
                    if sample.is_void and gateway.may_fail:
                        self._given_up.add((gateway.name, sample.workload))
                    whole = self._with_beside(sample, workload)
                    done.append(whole)
                    yield whole

    def _with_beside(self, sample: Sample, workload: Workload | None) -> Sample:
        """Should this fail, the harness has, and not the gateway."""
        if workload is None or not workload.beside:
            return sample
        return evolve(sample, beside=self._direct(workload).outcome)

    def _in_one_life(
        self, gateway: Gateway, left: deque[Work], done: Sequence[Sample], number: int
    ) -> Generator[tuple[Sample, Workload | None], None, None]:
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
                    if sample.is_void:
                        print(alive.process.failed(f"failed at {work.name}"), file=sys.stderr)
                    yield sample, workload
                    if sample.is_void:
                        return
        except (RuntimeError, OSError) as error:
            if not gateway.may_fail:
                raise
            print(error, file=sys.stderr)
            if work is not None:
                why = "the load did not come to its end"
                yield _failed(gateway.name, work.name, number, why), None
            while work is None and left:
                yield _failed(gateway.name, left.popleft().name, number, "it did not start"), None

    def _sample(self, gateway: Gateway, workload: Workload, number: int, alive: Life) -> Sample:
        measured = measure(alive.job(workload), alive.process.pids, self._upstream.pids)
        return _sample(gateway.name, workload, number, measured, alive.pss_base_bytes)

    def _direct(self, workload: Workload) -> Measured:
        return measure(workload.at(self._upstream.port, ()), (), self._upstream.pids)


def _sample(
    gateway: str, workload: Workload, number: int, measured: Measured, base: int = 0
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
    )


def _failed(gateway: str, workload: str, number: int, why: str) -> Sample:
    outcome = Outcome(0, 0, failed=1, errors=(why,), elapsed_s=0.0, cpu_s=0.0)
    return Sample(gateway, workload, number, 0, 0.0, 0.0, 0, None, outcome)
