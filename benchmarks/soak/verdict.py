"""What the readings of a soak come to. Pure: readings in, a slope and a verdict out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attrs import frozen

from benchmarks.soak.watch import Reading

MAX_SLOPE_MIB_H = 1.0
JUDGED_FROM_MINUTES = 10.0  # a shorter run has no slope to speak of
COUNTED_SHARE = 2 / 3  # of the run, the last part of it
SLICE_S = 60.0
LEAST_SLICES = 4
LEAST_POINTS = 3  # of a slope
_MIB = 2**20


@frozen
class Slope:
    """By least squares, with its standard error: a slope within twice that is none."""

    mib_per_h: float
    error: float


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Points of seconds and bytes. Raises ValueError for fewer than three."""
    count = len(points)
    if count < LEAST_POINTS:
        raise ValueError(f"a slope needs {LEAST_POINTS} points")
    hours = [at / 3600 for at, _ in points]
    mib = [value / _MIB for _, value in points]
    mean_h, mean_mib = sum(hours) / count, sum(mib) / count
    spread = sum((hour - mean_h) ** 2 for hour in hours)
    rise = sum((h - mean_h) * (m - mean_mib) for h, m in zip(hours, mib, strict=True)) / spread
    rest = sum((m - mean_mib - rise * (h - mean_h)) ** 2 for h, m in zip(hours, mib, strict=True))
    return Slope(rise, math.sqrt(rest / (count - 2) / spread))


@frozen
class Soaked:
    """A whole soak. `idle`: after the warm-up, `after`: at the end, both with nobody there."""

    minutes: float
    idle: Reading
    after: Reading
    readings: tuple[Reading, ...]
    visits: Mapping[str, int]
    answers: int
    events: int
    wrong: Mapping[str, int]
    words: tuple[str, ...]

    @property
    def counted(self) -> list[Reading]:
        """The lowest of each slice of the last part: what is kept when a peak has gone. Memory that
        was freed goes back to the kernel in pieces of a MiB and more, when it happens to. All that
        is resident counts: how much of the pages of files is this process's alone (USS), or its
        share (PSS), changes whenever another process that maps them comes or goes."""
        if not self.readings:
            return []
        first, last = self.readings[0].at_s, self.readings[-1].at_s
        whole_s = (last - first) * COUNTED_SHARE
        slice_s = min(SLICE_S, whole_s / LEAST_SLICES)
        slices: dict[int, list[Reading]] = {}
        for each in self.readings:
            if last - each.at_s < whole_s:
                slices.setdefault(int((last - each.at_s) / slice_s), []).append(each)
        return [min(one, key=_resident) for _, one in sorted(slices.items(), reverse=True)]

    @property
    def slope(self) -> Slope:
        return slope([(each.at_s, _resident(each)) for each in self.counted])

    @property
    def is_readable(self) -> bool:
        """Whether there is enough for a page."""
        return len(self.counted) >= LEAST_POINTS

    def faults(self) -> list[str]:
        """Why it has failed, in words."""
        found = [f"{kind}: {count} times wrong" for kind, count in self.wrong.items()]
        for name in ("descriptors", "tasks", "connections", "in_flight"):
            before, after = getattr(self.idle, name), getattr(self.after, name)
            if after > before:
                found.append(f"{name}: {after} at the end, {before} when idle before")
        if not self.is_readable:
            found.append(f"{len(self.readings)} readings are too few")
        elif self.minutes >= JUDGED_FROM_MINUTES:
            found += _memory_faults(self.slope)
        return [*found, *self.words]


def _memory_faults(rise: Slope) -> list[str]:
    """It grows when that is beyond doubt. It does not when that is; else nobody can tell."""
    if rise.mib_per_h > max(MAX_SLOPE_MIB_H, 2 * rise.error):
        return [f"memory grows by {rise.mib_per_h:.1f} MiB/h"]
    if rise.mib_per_h + 2 * rise.error > MAX_SLOPE_MIB_H:
        limit = f"memory cannot be judged within {MAX_SLOPE_MIB_H:g} MiB/h"
        had = f"the slope is {rise.mib_per_h:+.1f} with an error of {rise.error:.1f}"
        return [f"{limit}: {had}; run longer"]
    return []


def _resident(reading: Reading) -> int:
    return reading.rss_bytes
