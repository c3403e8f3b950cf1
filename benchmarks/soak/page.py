"""The result of a long run as Markdown: a section that stands by itself, or within a page."""

from __future__ import annotations

from benchmarks.soak.figures import MAX_SLOPE_MIB_H, Soaked
from benchmarks.soak.long_streams import Held
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

| | idle, after the warm-up | idle, at the end |
|---|---|---|
| file descriptors | {done.idle.descriptors} | {done.after.descriptors} |
| asyncio tasks | {done.idle.tasks} | {done.after.tasks} |
| threads | {done.idle.threads} | {done.after.threads} |
| client connections | {done.idle.connections} | {done.after.connections} |
| memory of its own (USS) | {_mib(done.idle.uss_bytes)} | {_mib(done.after.uss_bytes)} |
| with its share of others (PSS) | {_mib(done.idle.pss_bytes)} | {_mib(done.after.pss_bytes)} |
| blocks of Python's objects | {done.idle.blocks:,} | {done.after.blocks:,} |

Under load its own memory (the lowest of each minute) changed by {rise.mib_per_h:+.2f} MiB/h
(standard error {rise.error:.2f}) over the last {_minutes(done.counted):.0f} minutes; the limit is
{MAX_SLOPE_MIB_H:g} MiB/h.

| minute | memory (USS) | descriptors | tasks | of a core |
|---|---|---|---|---|
{_rows(done.readings)}

Visits: {by_kind}.
"""


def streams_page(done: Held) -> str:
    losses = done.losses
    return f"""## Long streams

{done.streams:,} streams open at once for {done.minutes:g} minutes, one numbered event of
{done.event_bytes} bytes a second on each: {done.received:,} of {done.expected:,} events came.

| lost | reordered | duplicated | spoilt | streams broken |
|---|---|---|---|---|
| {losses.lost} | {losses.reordered} | {losses.duplicated} | {losses.spoilt} | {done.broken} |

| memory (PSS) | |
|---|---|
| at rest | {_mib(done.base_bytes)} |
| with every stream open | {_mib(done.open_bytes)} (at most {_mib(done.most_bytes)}) |
| per stream | {done.per_stream_bytes / 1024:.1f} KiB |

The gateway used {done.cpu_share:.0%} of a core, {done.cpu_us:.1f} µs per event.
"""


def _minutes(readings: list[Reading]) -> float:
    return (readings[-1].at_s - readings[0].at_s) / 60


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def _rows(readings: tuple[Reading, ...]) -> str:
    step = max(1, len(readings) // _ROWS)
    rows = []
    for before, now in zip(readings[::step], readings[step::step], strict=False):
        share = (now.cpu_s - before.cpu_s) / (now.at_s - before.at_s)
        rows.append(
            f"| {now.at_s / 60:.1f} | {_mib(now.uss_bytes)} | {now.descriptors} |"
            f" {now.tasks} | {share:.0%} |"
        )
    return "\n".join(rows)
