"""What RoleMesh is to cost at most, and what it did: one line per target, out of a run's samples.

Pure. A target is a ratio within a round where it can be one; what it is compared with may not be in
a run, and then it is said that nothing was compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from benchmarks.figures import Figure, at_rest, cheapest, figure, of, ratio
from benchmarks.page.record import Run
from benchmarks.page.tables import first_p50, first_p99, shown, table

OURS = "rolemesh"
_NGINX = ("nginx",)
_RUST = ("sglang-router", "vllm-router")
_LEAN = ("sglang-router-lean", "vllm-router-lean")

Had = Callable[[Run, str], Figure | None]


@frozen
class Target:
    """`had`: of a run and `work`. `goal`: beyond what is demanded. Nothing may be demanded."""

    figure: str
    work: str
    had: Had
    unit: str
    at_most: float | None = None
    goal: float | None = None
    digits: int = 2


def targets(run: Run) -> str:
    """Those whose work was done."""
    head = ["figure", "wanted at most", "had", ""]
    asked = [each for each in TARGETS if run.work(each.work) is not None]
    return table(head, [_line(each, each.had(run, each.work)) for each in asked])


def _line(target: Target, had: Figure | None) -> list[str]:
    wanted = "" if target.at_most is None else f"{target.at_most:g} {target.unit}"
    if target.goal is not None:
        wanted += f" (goal {target.goal:g})"
    if had is None:
        return [target.figure, wanted, "", "nothing to compare with in this run"]
    return [target.figure, wanted, f"{shown(had, target.digits)} {target.unit}", _word(target, had)]


def _word(target: Target, had: Figure) -> str:
    if target.at_most is None:
        return "for comparison"
    if target.goal is not None and had.median <= target.goal:
        return "goal reached"
    return "reached" if had.median <= target.at_most else "**missed**"


def _times_nginx(run: Run, work: str) -> Figure | None:
    return _times(run, work, _NGINX)


def _times_rust(run: Run, work: str) -> Figure | None:
    return _times(run, work, _RUST)


def _times_lean(run: Run, work: str) -> Figure | None:
    return _times(run, work, _LEAN)


def _times(run: Run, work: str, bases: Sequence[str]) -> Figure | None:
    base = cheapest(run.samples, bases, work)
    if base is None or not of(run.samples, OURS, work):
        return None
    return ratio(run.samples, OURS, base, work)


def _kib_each(run: Run, work: str) -> Figure | None:
    sizes = [each.pss_each_bytes for each in of(run.samples, OURS, work)]
    return _figure([each / 1024 for each in sizes if each is not None])


def _mib_at_rest(run: Run, work: str) -> Figure | None:
    base = at_rest(run.samples, OURS)
    return None if base is None else base.divided(2**20)


def _added_p50_ms(run: Run, work: str) -> Figure | None:
    return _figure([each.added(first_p50) * 1000 for each in of(run.samples, OURS, work)])


def _added_p99_ms(run: Run, work: str) -> Figure | None:
    return _figure([each.added(first_p99) * 1000 for each in of(run.samples, OURS, work)])


def _figure(values: Sequence[float]) -> Figure | None:
    return figure(values) if values else None


_REQUEST = "CPU per request of 1 KiB"
_PACED = "the same at 2,000 a second"
_EVENT = "CPU per streamed event, 200 streams"
_BY_NGINX, _BY_RUST = ", against nginx", ", against the best Rust router"
_BY_LEAN = _BY_RUST + " made lean"
_WAIT, _FIRST = "added wait at a third of saturation", "added to a stream's first byte at a third"

TARGETS: tuple[Target, ...] = (
    Target(_REQUEST + _BY_NGINX, "requests", _times_nginx, "times", 2.8, 2.0),
    Target(_REQUEST + _BY_RUST, "requests", _times_rust, "times", 0.55, 0.4),
    Target(_REQUEST + _BY_LEAN, "requests", _times_lean, "times"),
    Target(_PACED + _BY_NGINX, "paced", _times_nginx, "times", 2.8, 2.0),
    Target(_PACED + _BY_RUST, "paced", _times_rust, "times", 0.55, 0.4),
    Target(_PACED + _BY_LEAN, "paced", _times_lean, "times"),
    Target(_EVENT + _BY_NGINX, "streams", _times_nginx, "times", 1.3, 1.0),
    Target(_EVENT + _BY_RUST, "streams", _times_rust, "times", 0.9, 0.6),
    Target(_EVENT + _BY_LEAN, "streams", _times_lean, "times"),
    Target("CPU for a prompt of 1 MiB" + _BY_NGINX, "requests-1m", _times_nginx, "times", 3.0),
    Target("memory per open stream of 2,000", "streams-2000", _kib_each, "KiB", 10.0, digits=1),
    Target("memory at rest", "streams", _mib_at_rest, "MiB", 60.0, digits=0),
    Target(_WAIT + ", p50", "latency", _added_p50_ms, "ms", 1.0),
    Target(_WAIT + ", p99", "latency", _added_p99_ms, "ms", 5.0),
    Target(_FIRST + ", p50", "latency-streams", _added_p50_ms, "ms", 1.0),
    Target(_FIRST + ", p99", "latency-streams", _added_p99_ms, "ms", 5.0),
)
