"""From samples to figures: medians over the rounds with their spread, and ratios within a round.

Pure. A ratio is taken in each round, between neighbours in time, and only then the median: what
slows the machine for a while slows both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from attrs import frozen

from benchmarks.job import Outcome


@frozen
class Sample:
    """One gateway, one workload, one round. `units`: requests or events that came in order."""

    gateway: str
    workload: str
    round: int
    units: int
    cpu_s: float
    upstream_cpu_s: float
    pss_base_bytes: int
    pss_per_stream_bytes: float | None
    outcome: Outcome

    @property
    def is_void(self) -> bool:
        return bool(self.outcome.failed) or not self.units

    @property
    def cpu_us(self) -> float:
        """CPU time of the gateway per unit."""
        return self.cpu_s / self.units * 1e6

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.outcome.elapsed_s

    @property
    def share(self) -> float:
        """Of one core, that the gateway used."""
        return self.cpu_s / self.outcome.elapsed_s


@frozen
class Figure:
    """Over the rounds."""

    median: float
    low: float
    high: float


def figure(values: Iterable[float]) -> Figure:
    ordered = sorted(values)
    return Figure(median(ordered), ordered[0], ordered[-1])


def of(samples: Sequence[Sample], gateway: str, workload: str) -> list[Sample]:
    return [each for each in samples if (each.gateway, each.workload) == (gateway, workload)]


def over_rounds(
    samples: Sequence[Sample], gateway: str, workload: str, value: Callable[[Sample], float]
) -> Figure:
    return figure(value(each) for each in of(samples, gateway, workload))


def ratio(samples: Sequence[Sample], gateway: str, base: str, workload: str) -> Figure:
    """How many times the CPU time per unit of `base`."""
    bases = {each.round: each.cpu_us for each in of(samples, base, workload)}
    return figure(each.cpu_us / bases[each.round] for each in of(samples, gateway, workload))


def headroom(samples: Sequence[Sample], direct: str, workload: str) -> Figure:
    """How many times the rate of each round's fastest gateway the harness reached without one."""
    rounds: dict[int, list[float]] = {}
    for each in samples:
        if each.workload == workload and each.gateway != direct:
            rounds.setdefault(each.round, []).append(each.rate)
    return figure(each.rate / max(rounds[each.round]) for each in of(samples, direct, workload))


def void(samples: Iterable[Sample]) -> list[Sample]:
    """Those that spoil the run."""
    return [each for each in samples if each.is_void]
