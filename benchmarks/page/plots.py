"""The pictures of a run: for each figure that is asked about first, one bar per gateway.

Pure: a `Run` in, SVG by file name out; `report` shows them.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from benchmarks.figures import Sample, figure, of
from benchmarks.page.record import Run
from benchmarks.page.svg import Bar, Chart, svg
from benchmarks.page.tables import first_p99
from benchmarks.page.targets import OURS

DIRECTORY = "performance"


@frozen
class Plot:
    name: str
    title: str
    work: str
    unit: str
    value: Callable[[Sample], float | None]
    digits: int = 0

    @property
    def path(self) -> str:
        """Beside the page."""
        return f"{DIRECTORY}/{self.name}.svg"


def _cpu_us(sample: Sample) -> float:
    return sample.cpu_us


def _kib_each(sample: Sample) -> float | None:
    return None if sample.pss_each_bytes is None else sample.pss_each_bytes / 1024


def _added_ms(sample: Sample) -> float:
    return sample.added(first_p99) * 1000


PLOTS = (
    Plot("request", "CPU time per request", "requests", "µs", _cpu_us),
    Plot("event", "CPU time per streamed event", "streams", "µs", _cpu_us, 1),
    Plot("prompt", "CPU time for a prompt of 1 MiB", "requests-1m", "µs", _cpu_us),
    Plot("stream", "Memory per open stream", "streams-2000", "KiB", _kib_each, 1),
    Plot("wait", "Added to a stream's first byte, p99", "latency-streams", "ms", _added_ms, 2),
)


def shown(run: Run) -> list[Plot]:
    return [each for each in PLOTS if run.work(each.work) is not None]


def plots(run: Run) -> dict[str, str]:
    """By path, relative to the page."""
    return {each.path: svg(_chart(run, each)) for each in shown(run)}


def _chart(run: Run, plot: Plot) -> Chart:
    work = run.work(plot.work)
    return Chart(
        title=plot.title,
        subtitle=work.title if work is not None else "",
        unit=plot.unit,
        bars=tuple(_bar(run, plot, each) for each in run.gateways),
        digits=plot.digits,
    )


def _bar(run: Run, plot: Plot, gateway: str) -> Bar:
    values = [plot.value(each) for each in of(run.samples, gateway, plot.work)]
    known = [each for each in values if each is not None]
    ours = gateway == OURS
    if not known:
        return Bar(gateway, None, "did not finish", ours)
    return Bar(gateway, figure(known), ours=ours)
