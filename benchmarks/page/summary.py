"""A run at a glance: one line per gateway, one column per figure that is asked about first.

Pure. Medians only; their spread is in `tables`. A column whose work was not done is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from benchmarks.figures import Sample, at_rest, figure, idle_closed, of
from benchmarks.page.record import Run
from benchmarks.page.tables import first_p50, first_p99, table


@frozen
class Column:
    """`shown`: of all samples of one gateway and `work`, one per round. `work`: None for what is
    known of a gateway whatever it did; then they are all of its samples."""

    heading: str
    work: str | None
    shown: Callable[[Sequence[Sample]], str]


def summary(run: Run) -> str:
    columns = [each for each in COLUMNS if each.work is None or run.work(each.work)]
    head = ["gateway", *(each.heading for each in columns)]
    rows = [[name, *(_cell(run, name, each) for each in columns)] for name in run.gateways]
    return table(head, rows)


def _cell(run: Run, gateway: str, column: Column) -> str:
    if column.work is None:
        samples = [each for each in run.samples if each.gateway == gateway]
    else:
        samples = of(run.samples, gateway, column.work)
    return column.shown(samples) if samples else "did not finish"


def _cpu(samples: Sequence[Sample]) -> str:
    return f"{figure(each.cpu_us for each in samples).median:,.0f} µs"


def _cpu_of_events(samples: Sequence[Sample]) -> str:
    return f"{figure(each.cpu_us for each in samples).median:,.1f} µs"


def _saturation(samples: Sequence[Sample]) -> str:
    return f"{figure(each.saturation for each in samples).median:,.0f}"


def _added(samples: Sequence[Sample]) -> str:
    p50, p99 = (
        figure([each.added(wait) * 1000 for each in samples]).median
        for wait in (first_p50, first_p99)
    )
    return f"{p50:.2f}, {p99:.2f} ms"


def _at_rest(samples: Sequence[Sample]) -> str:
    base = at_rest(samples, samples[0].gateway)
    return "did not start" if base is None else f"{base.median / 2**20:,.0f} MiB"


def _each(samples: Sequence[Sample]) -> str:
    closed = idle_closed(samples)
    if closed:
        return f"closed {closed:,}"
    sizes = [each.pss_each_bytes / 1024 for each in samples if each.pss_each_bytes is not None]
    return f"{figure(sizes).median:,.1f} KiB" if sizes else ""


COLUMNS = (
    Column("CPU per request", "requests", _cpu),
    Column("requests a second per core", "requests", _saturation),
    Column("CPU per streamed event", "streams", _cpu_of_events),
    Column("CPU for a 1 MiB prompt", "requests-1m", _cpu),
    Column("added wait, p50 and p99", "latency", _added),
    Column("added to a stream's first byte", "latency-streams", _added),
    Column("memory at rest", None, _at_rest),
    Column("per stream of 2,000", "streams-2000", _each),
    Column("per idle connection", "idle", _each),
)
