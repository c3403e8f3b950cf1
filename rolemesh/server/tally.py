"""Counters and histograms that are told from the hot path: an addition each, in the event loop.

prometheus_client's own are made for threads and take a lock and half a dozen calls per number.
`metrics` copies these when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

# By label values, in the family's order.
Counts = Counter[tuple[str, ...]]


class Histogram:
    """Of one set of labels. `bounds`: the buckets' upper ends, in order, without infinity."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        made = Histogram(self._bounds)
        made._counts[:] = self._counts
        made.sum = self.sum
        return made

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Cumulated, as Prometheus has them."""
        count = 0
        for bound, in_it in zip((*map(float, self._bounds), "+Inf"), self._counts, strict=True):
            count += in_it
            yield str(bound), count


class Histograms(dict[str, Histogram]):
    """By the value of their one label."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, label: str) -> Histogram:
        made = self[label] = Histogram(self._bounds)
        return made
