"""`python -m benchmarks.scaling`: what a big cluster costs a gateway beside a small one.

1 alias and 1 node against 1,000 aliases and 500 nodes that send their heartbeats, in the default
configuration: a request's CPU time as a ratio within each round, the heartbeats' share of a core,
memory, the start, and what the pages cost that tell of all of it. Writes JSON, and a page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from attrs import frozen

from benchmarks.figures import Sample, void
from benchmarks.gateways import CLIENT_KEY
from benchmarks.job import Outcome
from benchmarks.measure import measure
from benchmarks.process import Process, cpu_s, end_on_signals, free_port, pss_bytes
from benchmarks.scaling import report
from benchmarks.scaling.cluster import BIG, SMALL, WIDE, Size, launch
from benchmarks.scaling.fleet import Fleet, Heard
from benchmarks.scaling.report import ONE_BY_ONE, Rest, Scaling
from benchmarks.scaling.visitor import PAGES, REUSED_S, Page, one_by_one, page
from benchmarks.workloads import Workload, paced, requests

ROUNDS = 5
_HEADERS = (("Authorization", f"Bearer {CLIENT_KEY}"),)


@frozen
class Plan:
    """`rest_s`: how long the gateway is watched while nothing but heartbeats comes. `asked`: how
    many requests one client sends, one by one, over all aliases in turn. `pause_s`: before each
    page of the last size, which is to pay for its own probes."""

    sizes: tuple[Size, ...]
    works: tuple[Workload, ...]
    asked: int
    rest_s: float
    pause_s: float


FULL = Plan(
    sizes=(SMALL, BIG, WIDE),
    works=(requests(duration_s=2.0), paced(duration_s=2.0, a_second=2000)),
    asked=2000,
    rest_s=10.0,
    pause_s=REUSED_S,
)
TINY = Plan(
    sizes=(SMALL, Size(20, 10, wide=True)),
    works=(requests(duration_s=0.2, connections=4),),
    asked=20,
    rest_s=0.2,
    pause_s=0.0,
)


def main(argv: list[str] | None = None) -> int:
    """0; 1 when something failed, and then there are no figures."""
    options = _options(argv)
    end_on_signals()
    plan = TINY if options.tiny else FULL
    done = run(plan, options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_bytes(report.as_json(done))
    wrong = [words for each in void(done.samples) for words in each.outcome.errors]
    wrong += [words for each in done.rests for words in each.heard.errors]
    for words in wrong:
        print(f"void: {words}", file=sys.stderr)
    if wrong:
        return 1
    text = report.page(done)
    (options.out / "scaling.md").write_text(text)
    print(f"\n{text}\nwritten below {options.out}: scaling.md, scaling.json")
    return 0


def run(plan: Plan, rounds: int) -> Scaling:
    """The order of the sizes is turned round from one round to the next."""
    samples: list[Sample] = []
    rests: list[Rest] = []
    with tempfile.TemporaryDirectory(prefix="rolemesh-scaling-") as name:
        for number in range(rounds):
            for size in plan.sizes[:: -1 if number % 2 else 1]:
                place = Path(name) / f"{number}-{size.name}"
                place.mkdir()
                taken, rest = _one(plan, size, number, place)
                samples += taken
                rests.append(rest)
                print(
                    f"{number + 1} {size.name:<13} {rest.share:6.1%} of a core at rest", flush=True
                )
    return Scaling(
        at=datetime.now(UTC).date().isoformat(),
        rounds=rounds,
        sizes=tuple(each.name for each in plan.sizes),
        titles={each.name: each.title for each in plan.works},
        samples=tuple(samples),
        rests=tuple(rests),
    )


def _one(plan: Plan, size: Size, number: int, place: Path) -> tuple[list[Sample], Rest]:
    port = free_port()
    asked = launch(size, place, port)
    began_at = time.monotonic()
    with Process(asked.argv, place / "log", asked.env) as gateway:
        gateway.wait_for_port(port)
        start_s, start_cpu_s = time.monotonic() - began_at, cpu_s(gateway.pids)
        with _nodes(Fleet(size, port), place / "fleet") as nodes:
            register_cpu_s = cpu_s(gateway.pids) - start_cpu_s
            one_by_one(port, size.models, len(size.models), gateway.pids)  # everything once
            time.sleep(min(plan.rest_s, 2.0))  # the state file is written by now
            before = cpu_s(gateway.pids)
            time.sleep(plan.rest_s)
            rest_cpu_s, pss = cpu_s(gateway.pids) - before, pss_bytes(gateway.pids)
            samples = [_measured(work, size, number, port, gateway, nodes) for work in plan.works]
            samples.append(_asked(plan, size, number, port, gateway))
            pages = _pages(plan, port, gateway) if size == plan.sizes[-1] else ()
        heard = msgspec.json.decode((place / "fleet").read_text().splitlines()[-1], type=Heard)
    rest = Rest(
        size=size.name,
        round=number,
        start_s=start_s,
        start_cpu_s=start_cpu_s,
        register_cpu_s=register_cpu_s,
        pss_bytes=pss,
        rest_s=plan.rest_s,
        rest_cpu_s=rest_cpu_s,
        heard=heard,
        pages=pages,
    )
    return samples, rest


@contextmanager
def _nodes(fleet: Fleet, log: Path) -> Iterator[Process]:
    job = msgspec.json.encode(fleet).decode()
    with Process((sys.executable, "-m", "benchmarks.scaling.fleet", job), log) as process:
        process.wait_for_line()
        yield process


def _measured(
    work: Workload, size: Size, number: int, port: int, gateway: Process, nodes: Process
) -> Sample:
    measured = measure(work.at(port, _HEADERS), gateway.pids, nodes.pids)
    outcome = measured.outcome
    units = work.units(outcome.answers, outcome.events)
    cpu = measured.cpu_s, measured.upstream_cpu_s
    return Sample(size.name, work.name, number, units, *cpu, 0, None, outcome)


def _asked(plan: Plan, size: Size, number: int, port: int, gateway: Process) -> Sample:
    began_at = time.monotonic()
    spent = one_by_one(port, size.models, plan.asked, gateway.pids)
    elapsed_s = time.monotonic() - began_at
    outcome = Outcome(plan.asked, 0, 0, (), elapsed_s, cpu_s=0.0)
    return Sample(size.name, ONE_BY_ONE, number, plan.asked, spent, 0.0, 0, None, outcome)


def _pages(plan: Plan, port: int, gateway: Process) -> tuple[Page, ...]:
    return tuple(page(path, port, gateway.pids, plan.pause_s) for path in PAGES)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tiny", action="store_true", help="seconds: shows that it works")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
