"""From samples to figures: medians over the rounds with their spread, and ratios within a round.

Pure. A ratio is taken in each round, between neighbours in time, and only then the median: what
slows the machine for a while slows both.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from statistics import median

from attrs import frozen

from benchmarks.job import Outcome

DIRECT = "direct"  # the name under which the load generator meets the upstream itself


@frozen
class Sample:
    """One gateway, one workload, one round. `units`: requests or events that came in order.
    `pss_each_bytes`: per connection that was open; None where there was no moment to read it.
    `beside`: the same job, right after, without the gateway."""

    gateway: str
    workload: str
    round: int
    units: int
    cpu_s: float
    upstream_cpu_s: float
    pss_base_bytes: int
    pss_each_bytes: float | None
    outcome: Outcome
    beside: Outcome | None = None

    @property
    def is_void(self) -> bool:
        return bool(self.outcome.failed) or not self.units

    @property
    def spoils(self) -> bool:
        """The harness itself failed, whatever the gateway."""
        return self.beside is not None and (self.beside.failed > 0 or not self.beside.answers)

    @property
    def why_void(self) -> str:
        outcome = self.beside if self.beside is not None and self.spoils else self.outcome
        return "; ".join(outcome.errors) or "nothing came back"

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

    @property
    def saturation(self) -> float:
        """Units per second for which it needs one core's worth of CPU time."""
        return self.units / self.cpu_s

    def added(self, wait: Callable[[Outcome], float]) -> float:
        """How much longer than without the gateway."""
        if self.beside is None:
            raise ValueError(f"{self.workload} was not done without {self.gateway}")
        return wait(self.outcome) - wait(self.beside)


@frozen
class Figure:
    """Over the rounds."""

    median: float
    low: float
    high: float

    def divided(self, by: float) -> Figure:
        return Figure(self.median / by, self.low / by, self.high / by)


def figure(values: Iterable[float]) -> Figure:
    ordered = sorted(values)
    return Figure(median(ordered), ordered[0], ordered[-1])


def of(samples: Sequence[Sample], gateway: str, workload: str) -> list[Sample]:
    """Empty for a gateway that did not finish that workload in each of its rounds."""
    found = [each for each in samples if (each.gateway, each.workload) == (gateway, workload)]
    return [] if any(each.is_void for each in found) else found


def unfinished(samples: Sequence[Sample], gateway: str, workload: str) -> str | None:
    """Why it did not finish."""
    for each in samples:
        if (each.gateway, each.workload) == (gateway, workload) and each.is_void:
            return each.why_void
    return None


def over_rounds(
    samples: Sequence[Sample], gateway: str, workload: str, value: Callable[[Sample], float]
) -> Figure:
    """Raises StatisticsError where `of` is empty; so do the ratios."""
    return figure(value(each) for each in of(samples, gateway, workload))


def at_rest(samples: Iterable[Sample], gateway: str) -> Figure | None:
    """Bytes, once for each of its lives: the works of one life share what was read before them."""
    found = {
        (each.round, each.pss_base_bytes)
        for each in samples
        if each.gateway == gateway and each.pss_base_bytes
    }
    return figure(base for _, base in found) if found else None


def idle_closed(samples: Iterable[Sample]) -> int:
    """Of the connections that were to be idle, in the worst round. What the others cost is then not
    known: memory was read for all."""
    return max(each.outcome.idle_closed for each in samples)


def ratio(samples: Sequence[Sample], gateway: str, base: str, workload: str) -> Figure:
    """How many times the CPU time per unit of `base` in the same round."""
    theirs = {each.round: each.cpu_us for each in of(samples, base, workload)}
    mine = [each for each in of(samples, gateway, workload) if each.round in theirs]
    return figure(each.cpu_us / theirs[each.round] for each in mine)


def cheapest(samples: Sequence[Sample], gateways: Iterable[str], workload: str) -> str | None:
    """By the median of its CPU time per unit, of those that have done the work. (Whichever was
    cheaper in each round would be neither of them, but both with all their luck.)"""
    costs = {
        gateway: over_rounds(samples, gateway, workload, lambda each: each.cpu_us).median
        for gateway in gateways
        if of(samples, gateway, workload)
    }
    return min(costs, key=lambda gateway: costs[gateway], default=None)


def headroom(samples: Sequence[Sample], workload: str) -> Figure:
    """How many times the rate of each round's fastest gateway the harness reached without one."""
    rounds: dict[int, list[float]] = {}
    for each in samples:
        if each.workload == workload and each.gateway != DIRECT and not each.is_void:
            rounds.setdefault(each.round, []).append(each.rate)
    found = [each for each in of(samples, DIRECT, workload) if each.round in rounds]
    return figure(each.rate / max(rounds[each.round]) for each in found)


def void(samples: Iterable[Sample], may_fail: Container[str] = ()) -> list[Sample]:
    """Those that spoil the run."""
    return [
        each for each in samples
        if each.spoils or (each.is_void and each.gateway not in may_fail)
    ]  # fmt: skip
