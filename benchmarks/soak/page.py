"""The result of a long run as Markdown: a section that stands by itself, or within a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.page.tables import table
from benchmarks.soak.long_streams import Held
from benchmarks.soak.verdict import JUDGED_FROM_MINUTES, MAX_SLOPE_MIB_H, Soaked
from benchmarks.soak.watch import Reading

_ROWS = 12


def soak_page(done: Soaked) -> str:
    rise = done.slope
    wrong = sum(done.wrong.values())
    visits = sum(done.visits.values())
    by_kind = ", ".join(f"{name} {count:,}" for name, count in sorted(done.visits.items()))
    return f"""## Soak

{done.minutes:g} minutes of mixed traffic through one gateway as it comes: of {visits:,} visits
{wrong:,} went otherwise than they should; {done.answers:,} answers with {done.events:,} streamed
events came whole and byte for byte.

{_left(done.idle, done.after)}

Under load its memory (RSS, the lowest of each minute) changed by {rise.mib_per_h:+.2f} MiB/h
(standard error {rise.error:.2f}) over the last {_minutes(done.counted):.0f} minutes; the limit is
{MAX_SLOPE_MIB_H:g} MiB/h. A run of {JUDGED_FROM_MINUTES:g} minutes or more has failed when the
slope is above both the limit and twice its error, and cannot be judged, which is a failure too,
when the slope and twice its error add up to more than the limit.

{_course(done.readings)}

Visits: {by_kind}.
"""


def streams_page(done: Held) -> str:
    losses = done.losses
    counts = (losses.lost, losses.reordered, losses.duplicated, losses.spoilt, done.broken)
    memory = [
        ["at rest", _mib(done.base_bytes)],
        ["with every stream open", f"{_mib(done.open_bytes)} (at most {_mib(done.most_bytes)})"],
        ["per stream", f"{done.per_stream_bytes / 1024:.1f} KiB"],
    ]
    return f"""## Long streams

{done.streams:,} streams open at once for {done.minutes:g} minutes, one numbered event of
{done.event_bytes} bytes a second on each: {done.received:,} of {done.expected:,} events came.

{table(["lost", "reordered", "duplicated", "spoilt", "streams broken"], [[*map(str, counts)]])}

{table(["memory (PSS)", ""], memory)}

The gateway used {done.cpu_share:.0%} of a core, {done.cpu_us:.1f} µs per event.
"""


def _left(idle: Reading, after: Reading) -> str:
    told: tuple[tuple[str, Callable[[Reading], str]], ...] = (
        ("file descriptors", lambda each: str(each.descriptors)),
        ("asyncio tasks", lambda each: str(each.tasks)),
        ("threads", lambda each: str(each.threads)),
        ("client connections", lambda each: str(each.connections)),
        ("memory, all that is resident (RSS)", lambda each: _mib(each.rss_bytes)),
        ("memory, its share (PSS)", lambda each: _mib(each.pss_bytes)),
        ("blocks of Python's objects", lambda each: f"{each.blocks:,}"),
    )
    rows = [[title, value(idle), value(after)] for title, value in told]
    return table(["", "idle, after the warm-up", "idle, at the end"], rows)


def _minutes(readings: list[Reading]) -> float:
    return (readings[-1].at_s - readings[0].at_s) / 60


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def _course(readings: Sequence[Reading]) -> str:
    step = max(1, len(readings) // _ROWS)
    pairs = zip(readings[::step], readings[step::step], strict=False)
    rows = [_between(before, now) for before, now in pairs]
    return table(["minute", "memory (RSS)", "descriptors", "tasks", "of a core"], rows)


def _between(before: Reading, now: Reading) -> list[str]:
    share = (now.cpu_s - before.cpu_s) / (now.at_s - before.at_s)
    at, kept = f"{now.at_s / 60:.1f}", (str(now.descriptors), str(now.tasks))
    return [at, _mib(now.rss_bytes), *kept, f"{share:.0%}"]
