"""What a run of `scaling` came to: as JSON for programs, as tables for people.

Pure: a `Scaling` in, text out. Ratios are taken within a round, as in `figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from attrs import evolve, frozen

from benchmarks.figures import Figure, Sample, figure, over_rounds, ratio
from benchmarks.page.tables import shown, table
from benchmarks.scaling.fleet import Heard
from benchmarks.scaling.visitor import Visited

ONE_BY_ONE = "one_by_one"
_ONE_BY_ONE = "One client, one request after the other, each for the next alias"
MIB = 2**20


@frozen
class Rest:
    """A gateway of one size, in one round. `start_cpu_s`: until it listens; `register_cpu_s`: until
    all nodes are there; `rest_cpu_s`: in `rest_s` with nothing but heartbeats."""

    size: str
    round: int
    start_s: float
    start_cpu_s: float
    register_cpu_s: float
    pss_bytes: int
    rest_s: float
    rest_cpu_s: float
    heard: Heard
    pages: tuple[Visited, ...]

    @property
    def share(self) -> float:
        """Of one core."""
        return self.rest_cpu_s / self.rest_s


@frozen
class Scaling:
    """A run. `samples` are as in performance.json, their `gateway` being one of `sizes`: the first
    is what the others are compared with, of the last there are pages."""

    at: str
    rounds: int
    sizes: tuple[str, ...]
    titles: dict[str, str]
    samples: tuple[Sample, ...]
    rests: tuple[Rest, ...]

    @property
    def net(self) -> list[Sample]:
        """Without what the gateway would have used meanwhile had no request come."""
        shares = {(each.size, each.round): each.share for each in self.rests}
        return [_net(each, shares[each.gateway, each.round]) for each in self.samples]


def as_json(done: Scaling) -> bytes:
    """One sample a line: two runs can be compared by eye."""
    fields = msgspec.to_builtins(done)
    samples, rests = (
        b",\n".join(map(msgspec.json.encode, fields.pop(name))) for name in ("samples", "rests")
    )
    head = msgspec.json.encode(fields)[:-1]
    return b'%b,"samples":[\n%b\n],"rests":[\n%b\n]}\n' % (head, samples, rests)


def page(done: Scaling) -> str:
    """A section that stands by itself, or within a page."""
    tables = "\n\n".join([_requests(done), _rest(done), *_pages(done)])
    return f"""## A big cluster

Aliases x nodes; every alias is found by its role, every node registers over HTTP, serves
three models of two roles each, and sends a heartbeat every ten seconds. In the wide one all nodes
serve the alias that is asked for as well, and take turns. CPU per request is without what the
heartbeats cost meanwhile, which is the share told below; medians of {done.rounds} rounds.

{tables}
"""


def _requests(done: Scaling) -> str:
    rows = []
    for work, title in {**done.titles, ONE_BY_ONE: _ONE_BY_ONE}.items():
        rows.append([title])
        rows += [_cost(done, size, work) for size in done.sizes]
    return table(["", "CPU per request", f"times {done.sizes[0]}", "with heartbeats"], rows)


def _cost(done: Scaling, size: str, work: str) -> list[str]:
    net = done.net
    cpu, raw = (
        over_rounds(samples, size, work, lambda each: each.cpu_us)
        for samples in (net, done.samples)
    )
    times = ratio(net, size, done.sizes[0], work)
    return [size, f"{shown(cpu, 1)} µs", shown(times, 2), f"{raw.median:,.1f} µs"]


def _rest(done: Scaling) -> str:
    told: tuple[tuple[str, Callable[[Rest], float], int], ...] = (
        ("heartbeats and all that recurs, % of a core", lambda each: each.share * 100, 2),
        ("memory (PSS), MiB", lambda each: each.pss_bytes / MIB, 1),
        ("until it listens, s", lambda each: each.start_s, 2),
        ("CPU until it listens, s", lambda each: each.start_cpu_s, 2),
        ("CPU until all nodes are registered, s", lambda each: each.register_cpu_s, 2),
    )
    rows = [
        [title, *(shown(_of(done.rests, size, value), digits) for size in done.sizes)]
        for title, value, digits in told
    ]
    return table(["at rest", *done.sizes], rows)


def _pages(done: Scaling) -> list[str]:
    told = [each.pages for each in done.rests if each.pages]
    if not told:
        return []
    head = [f"{done.sizes[-1]}, probes included", "KiB", "CPU ms", "took ms"]
    rows = [_visited(rounds) for rounds in zip(*told, strict=True)]
    return [table([*head, "other client waited ms"], rows)]


def _visited(rounds: Sequence[Visited]) -> list[str]:
    """One page."""
    cpu = figure(each.cpu_s * 1000 for each in rounds)
    took = figure(each.took_s * 1000 for each in rounds)
    waited = figure(each.waited_s * 1000 for each in rounds)
    first = rounds[0]
    kib = f"{first.size_bytes / 1024:,.0f}"
    return [f"GET {first.path}", kib, shown(cpu, 1), shown(took, 0), shown(waited, 1)]


def _of(rests: Sequence[Rest], size: str, value: Callable[[Rest], float]) -> Figure:
    return figure(value(each) for each in rests if each.size == size)


def _net(sample: Sample, share: float) -> Sample:
    return evolve(sample, cpu_s=sample.cpu_s - share * sample.outcome.elapsed_s)
