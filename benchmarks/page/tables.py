"""The figures of a run in full, as tables: medians with their spread, and what did not finish.

Pure: a `Run` in, Markdown out. Nothing here that is not computed from the run's samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.figures import (
    DIRECT,
    Figure,
    Sample,
    at_rest,
    figure,
    headroom,
    idle_closed,
    of,
    over_rounds,
    ratio,
    unfinished,
)
from benchmarks.job import Outcome
from benchmarks.page.record import Run, WorkDone

BASE = "nginx"
LEAST_ROOM = 1.1  # a prompt of 1 MiB costs the harness nearly what it costs a proxy
_MEMORY = {
    "streams": "per open stream of",
    "streams-2000": "per open stream of",
    "idle": "per idle connection, of all",
}
_STEADY = ("streams", "paced", "streams-2000", "idle")  # where the load leaves room to breathe
_ADDED = ("latency", "latency-streams")


def tables(run: Run) -> str:
    done = [*(_costs(run, work) for work in run.works), *(_added(run, name) for name in _ADDED)]
    return "\n\n".join(filter(None, [*done, _waits(run), _memory(run), _harness(run)]))


def shown(value: Figure, digits: int) -> str:
    """The median, and from where to where the rounds went."""
    return f"{value.median:,.{digits}f} ({value.low:,.{digits}f} to {value.high:,.{digits}f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *(row + [""] * (len(head) - len(row)) for row in rows)]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|"
                     for line in lines)  # fmt: skip


def _costs(run: Run, work: WorkDone) -> str:
    head = [work.title, f"CPU per {work.unit}", f"times {BASE}", f"{work.unit}s a second"]
    return table([*head, "of a core"], [_cost(run, work, each) for each in run.gateways])


def _cost(run: Run, work: WorkDone, gateway: str) -> list[str]:
    samples, name = run.samples, work.name
    if not of(samples, gateway, name):
        return [gateway, _unfinished(run, gateway, name)]
    cpu = over_rounds(samples, gateway, name, lambda each: each.cpu_us)
    rate = over_rounds(samples, gateway, name, lambda each: each.rate)
    share = over_rounds(samples, gateway, name, lambda each: each.share)
    times = shown(ratio(samples, gateway, BASE, name), 2) if of(samples, BASE, name) else ""
    return [gateway, f"{shown(cpu, 1)} µs", times, f"{rate.median:,.0f}", f"{share.median:.0%}"]


def _added(run: Run, name: str) -> str | None:
    """What each gateway adds to the time until the first byte and until the whole answer."""
    work = run.work(name)
    if work is None:
        return None
    head = [work.title, "asked a second", "added p50, ms", "added p99, ms", "without it, ms"]
    return table(head, [_added_by(run, work, each) for each in run.gateways])


def _added_by(run: Run, work: WorkDone, gateway: str) -> list[str]:
    found = of(run.samples, gateway, work.name)
    if not found:
        return [gateway, _unfinished(run, gateway, work.name)]
    beside = [each.beside for each in found if each.beside is not None]
    direct50, direct99 = (
        figure(wait(each) * 1000 for each in beside).median for wait in (first_p50, first_p99)
    )
    return [
        gateway,
        f"{figure(each.outcome.answers / each.outcome.elapsed_s for each in found).median:,.0f}",
        shown(figure(each.added(first_p50) * 1000 for each in found), 2),
        shown(figure(each.added(first_p99) * 1000 for each in found), 2),
        f"{direct50:.2f}, {direct99:.2f}",
    ]


def first_p50(outcome: Outcome) -> float:
    return outcome.first_byte.p50


def first_p99(outcome: Outcome) -> float:
    return outcome.first_byte.p99


def _waits(run: Run) -> str:
    works = [each for each in run.works if each.name in _STEADY]
    head = ["time to first byte, p50 and p99 in ms", *(each.name for each in works)]
    rows = [
        [gateway, *(_wait(run, gateway, each.name) for each in works)]
        for gateway in (DIRECT, *run.gateways)
    ]
    return table(head, rows)


def _wait(run: Run, gateway: str, work: str) -> str:
    if not of(run.samples, gateway, work):
        return "did not finish"
    p50 = over_rounds(run.samples, gateway, work, lambda each: first_p50(each.outcome))
    p99 = over_rounds(run.samples, gateway, work, lambda each: first_p99(each.outcome))
    return f"{p50.median * 1000:.2f}, {p99.median * 1000:.2f}"


def _memory(run: Run) -> str:
    works = [each for each in run.works if each.name in _MEMORY]
    head = [f"{_MEMORY[each.name]} {each.open_at_once:,}" for each in works]
    rows = [_memory_of(run, works, each) for each in run.gateways]
    return table(["memory (PSS)", "at rest", *head], rows)


def _memory_of(run: Run, works: list[WorkDone], gateway: str) -> list[str]:
    base = at_rest(run.samples, gateway)
    rest = "did not start" if base is None else f"{base.median / 2**20:,.0f} MiB"
    return [gateway, rest, *(_kib_each(of(run.samples, gateway, each.name)) for each in works)]


def _kib_each(samples: Sequence[Sample]) -> str:
    if not samples:
        return "did not finish"
    closed = idle_closed(samples)
    if closed:
        return f"closed {closed:,}"
    sizes = [each.pss_each_bytes / 1024 for each in samples if each.pss_each_bytes is not None]
    return f"{shown(figure(sizes), 1)} KiB" if sizes else ""


def cramped(run: Run) -> list[str]:
    """The works in which the harness without a gateway was, in one round at least, hardly faster
    than the fastest one."""
    free = [each for each in run.works if not each.fixed_rate and _through(run, each)]
    room = {each.name: headroom(run.samples, each.name).low for each in free}
    return [name for name, times in room.items() if times < LEAST_ROOM]


def _harness(run: Run) -> str:
    """The proof that neither the load generator nor the upstream is what is measured."""
    head = ["harness", "without a gateway", "of the fastest gateway", "generator busy"]
    rows = [_harness_at(run, each) for each in run.works if _through(run, each)]
    return table([*head, "upstream busy"], rows)


def _harness_at(run: Run, work: WorkDone) -> list[str]:
    direct = "beside each"
    if of(run.samples, DIRECT, work.name):
        rate = over_rounds(run.samples, DIRECT, work.name, lambda each: each.rate)
        direct = f"{rate.median:,.0f}"
    room = "fixed rate"
    if not work.fixed_rate:
        room = f"{shown(headroom(run.samples, work.name), 1)} times"
    return [
        f"{work.name}: {work.unit}s a second",
        direct,
        room,
        f"at most {_most(run, work, lambda each: each.outcome.cpu_s):.0%} of a core",
        f"at most {_most(run, work, lambda each: each.upstream_cpu_s):.0%}",
    ]


def _through(run: Run, work: WorkDone) -> list[Sample]:
    whole = [each for each in run.samples if each.gateway != DIRECT and not each.is_void]
    return [each for each in whole if each.workload == work.name]


def _most(run: Run, work: WorkDone, cpu_s: Callable[[Sample], float]) -> float:
    """Of a core, beside any of the gateways."""
    return max(cpu_s(each) / each.outcome.elapsed_s for each in _through(run, work))


def _unfinished(run: Run, gateway: str, work: str) -> str:
    why = unfinished(run.samples, gateway, work)
    return f"did not finish: {why}" if why else "not asked: it did not finish what this builds on"
