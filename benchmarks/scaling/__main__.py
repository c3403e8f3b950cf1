"""`python -m benchmarks.scaling`: what a big cluster costs a gateway beside a small one.

1 alias and 1 node against 1,000 aliases and 500 nodes that send their heartbeats, in the default
configuration: a request's CPU time as a ratio within each round, the heartbeats' share of a core,
memory, the start, and what the pages cost that tell of all of it. Writes JSON, and a page.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from attrs import frozen

from benchmarks import descriptors
from benchmarks.figures import Sample, void
from benchmarks.gateways import RoleMesh
from benchmarks.job import Outcome
from benchmarks.measure import measure
from benchmarks.process import Process, cpu_s, end_on_signals, free_port, pss_bytes
from benchmarks.scaling import report
from benchmarks.scaling.cluster import BIG, SMALL, WIDE, Size, launch
from benchmarks.scaling.fleet import Fleet, Heard
from benchmarks.scaling.report import ONE_BY_ONE, Rest, Scaling
from benchmarks.scaling.visitor import PAGES, REUSED_S, Visited, one_by_one, visit
from benchmarks.workloads import Workload, paced, requests

ROUNDS = 5
PER_NODE = 3  # connections: its own to the gateway, where it listens, the gateway's to it


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
    """0; 1 when something failed, and then there are no figures, but what is left of that gateway
    below `failed-scaling`; 2 when the machine does not allow that many connections."""
    options = _options(argv)
    end_on_signals()
    plan = TINY if options.tiny else FULL
    try:
        descriptors.claim(PER_NODE * max(each.nodes for each in plan.sizes))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rolemesh-scaling-") as name:
        try:
            done = run(plan, options.rounds, Path(name))
        except (RuntimeError, OSError) as error:
            print(f"void: {error}", file=sys.stderr)
            shutil.copytree(name, options.out / "failed-scaling", dirs_exist_ok=True)
            return 1
    (options.out / "scaling.json").write_bytes(report.as_json(done))
    text = report.page(done)
    (options.out / "scaling.md").write_text(text)
    print(f"\n{text}\nwritten below {options.out}: scaling.md, scaling.json")
    return 0


def run(plan: Plan, rounds: int, directory: Path) -> Scaling:
    """The order of the sizes is turned round from one round to the next. Raises RuntimeError at
    the first that fails; what it has written is then in `directory`, alone."""
    samples: list[Sample] = []
    rests: list[Rest] = []
    for number in range(rounds):
        for size in plan.sizes[:: -1 if number % 2 else 1]:
            place = directory / f"{number}-{size.name}"
            place.mkdir()
            taken, rest = _one(plan, size, number, place)
            wrong = faults(taken, rest)
            if wrong:
                raise RuntimeError("; ".join(wrong))
            shutil.rmtree(place)
            samples += taken
            rests.append(rest)
            print(f"{number + 1} {size.name:<13} {rest.share:6.1%} of a core at rest", flush=True)
    return Scaling(
        at=datetime.now(UTC).date().isoformat(),
        rounds=rounds,
        sizes=tuple(each.name for each in plan.sizes),
        titles={each.name: each.title for each in plan.works},
        samples=tuple(samples),
        rests=tuple(rests),
    )


def faults(samples: Sequence[Sample], rest: Rest) -> list[str]:
    """In words."""
    wrong = [f"{each.gateway}, {each.workload}: {each.why_void}" for each in void(samples)]
    return wrong + [f"{rest.size}, nodes: {words}" for words in rest.heard.errors]


def _one(plan: Plan, size: Size, number: int, place: Path) -> tuple[list[Sample], Rest]:
    port = free_port()
    asked = launch(size, place, port)
    began_at = time.monotonic()
    with Process(asked.argv, place / "log", asked.env) as gateway:
        gateway.wait_for_port(port)
        start_s, start_cpu_s = time.monotonic() - began_at, cpu_s(gateway.pids)
        turn = _Turn(plan, size, number, port, gateway)
        with _nodes(Fleet(size, port), place / "fleet") as nodes:
            register_cpu_s = cpu_s(gateway.pids) - start_cpu_s
            rest_cpu_s, pss = turn.rest()
            samples = [*(turn.measured(work, nodes) for work in plan.works), turn.asked()]
            pages = turn.visits() if size == plan.sizes[-1] else ()
        heard = msgspec.json.decode((place / "fleet").read_text().splitlines()[-1], type=Heard)
    return samples, Rest(
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


@contextmanager
def _nodes(fleet: Fleet, log: Path) -> Iterator[Process]:
    job = msgspec.json.encode(fleet).decode()
    with Process((sys.executable, "-m", "benchmarks.scaling.fleet", job), log) as process:
        process.wait_for_line()
        yield process


@frozen
class _Turn:
    """A gateway of one size, in one round, with all its nodes: what is asked of it."""

    plan: Plan
    size: Size
    number: int
    port: int
    gateway: Process

    def rest(self) -> tuple[float, int]:
        """CPU seconds and memory with nothing but heartbeats."""
        models, pids = self.size.models, self.gateway.pids
        one_by_one(self.port, models, len(models), pids)  # everything once
        time.sleep(min(self.plan.rest_s, 2.0))  # the state file is written by now
        before = cpu_s(pids)
        time.sleep(self.plan.rest_s)
        return cpu_s(pids) - before, pss_bytes(pids)

    def measured(self, work: Workload, nodes: Process) -> Sample:
        job = work.at(self.port, RoleMesh().headers)
        measured = measure(job, self.gateway.pids, nodes.pids)
        outcome = measured.outcome
        units = work.units(outcome.answers, outcome.events)
        cpu, name = (measured.cpu_s, measured.upstream_cpu_s), self.size.name
        return Sample(name, work.name, self.number, units, *cpu, 0, None, outcome)

    def asked(self) -> Sample:
        spent = one_by_one(self.port, self.size.models, self.plan.asked, self.gateway.pids)
        outcome = Outcome(self.plan.asked, 0, 0, (), spent.elapsed_s, cpu_s=0.0)
        units, name = self.plan.asked, self.size.name
        return Sample(name, ONE_BY_ONE, self.number, units, spent.cpu_s, 0.0, 0, None, outcome)

    def visits(self) -> tuple[Visited, ...]:
        pids, pause_s = self.gateway.pids, self.plan.pause_s
        return tuple(visit(path, self.port, pids, pause_s) for path in PAGES)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tiny", action="store_true", help="seconds: shows that it works")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
