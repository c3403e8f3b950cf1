"""`python -m benchmarks`: runs the comparison, prints its tables, writes JSON, the page, its plots.

`--from` makes page and plots anew out of the JSON of an earlier run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve

from benchmarks import descriptors, suites
from benchmarks.adapter import Gateway
from benchmarks.figures import Sample, void
from benchmarks.gateways import GATEWAYS
from benchmarks.page.machine import machine
from benchmarks.page.plots import DIRECTORY, plots
from benchmarks.page.record import Run, WorkDone, as_json, from_json
from benchmarks.page.report import page
from benchmarks.page.tables import cramped, tables
from benchmarks.process import end_on_signals
from benchmarks.runner import run
from benchmarks.workloads import Work

ROUNDS = 5


def main(argv: list[str] | None = None) -> int:
    """0; 1 when the run is void or breaks off; 2 when it cannot be done: a gateway that was asked
    for by name is not there, or the machine does not allow that many connections."""
    options = _options(argv)
    end_on_signals()
    if options.source is not None:
        return _write(from_json(options.source.read_bytes()), options)
    asked = [each for each in GATEWAYS if _is_asked(each, options)]
    present = [each for each in asked if each.version() is not None]
    absent = {each.name: each.install for each in asked if each not in present}
    for name, how in absent.items():
        print(f"{name} is not installed ({how}): it is left out", file=sys.stderr)
    if options.gateway and absent:
        return 2
    works = _works(options)
    try:
        descriptors.claim(max(each.open_at_once for each in works))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    began_at = time.monotonic()
    samples, broken_off = _taken(run(present, works, options.rounds))
    done = _record(options, present, absent, works, samples)
    done = evolve(done, took_s=time.monotonic() - began_at)
    is_whole = broken_off is None and not void(samples, done.may_fail)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "performance.json" if is_whole else "performance.void.json"
    (options.out / name).write_bytes(as_json(done))
    if broken_off is not None:
        print(f"void: {broken_off}", file=sys.stderr)
        return 1
    return _write(done, options)


def _taken(taking: Generator[Sample, None, None]) -> tuple[list[Sample], str | None]:
    """The samples, and why there are no more of them if something failed."""
    samples: list[Sample] = []
    try:
        with closing(taking):
            for sample in taking:
                samples.append(sample)
                _tell(sample)
    except (RuntimeError, OSError) as error:
        return samples, str(error)
    return samples, None


def _is_asked(gateway: Gateway, options: argparse.Namespace) -> bool:
    """Without a name: all, or in a short run those that are quick to start and do not fail."""
    if options.gateway:
        return gateway.name in options.gateway
    return options.full or not gateway.may_fail


def _works(options: argparse.Namespace) -> tuple[Work, ...]:
    if options.workload:
        return suites.named(suites.full(), options.workload)
    if options.tiny:
        return suites.tiny()
    return suites.full() if options.full else suites.quick()


def _record(
    options: argparse.Namespace,
    present: Sequence[Gateway],
    absent: dict[str, str],
    works: Sequence[Work],
    samples: Sequence[Sample],
) -> Run:
    return Run(
        command=options.command,
        at=datetime.now(UTC).date().isoformat(),
        rounds=options.rounds,
        machine=machine(present),
        settings={each.name: each.setting for each in present},
        missing=absent,
        works=tuple(
            WorkDone(each.name, each.title, each.unit, each.fixed_rate, each.open_at_once)
            for each in works
        ),
        samples=tuple(samples),
        may_fail=tuple(each.name for each in present if each.may_fail),
    )


def _write(done: Run, options: argparse.Namespace) -> int:
    spoilt = void(done.samples, done.may_fail)
    for each in spoilt:
        print(f"void: {each.gateway}, {each.workload}: {each.why_void}", file=sys.stderr)
    if spoilt:
        return 1
    for name in cramped(done):
        print(f"{name}: a gateway came near what the harness can do: is something else running?")
    out: Path = options.out
    (out / DIRECTORY).mkdir(parents=True, exist_ok=True)
    sections = [each.read_text() for each in options.section or ()]
    written = {"performance.md": page(done, sections), **plots(done)}
    for name, text in written.items():
        (out / name).write_text(text)
    print(f"\n{tables(done)}\n\nwritten below {out}: {', '.join(written)}")
    return 0


def _tell(sample: Sample) -> None:
    start = f"{sample.round + 1} {sample.workload:<15} {sample.gateway:<13}"
    if sample.is_void or sample.spoils:
        print(f"{start} void: {sample.why_void}", flush=True)
        return
    cost = f"{sample.cpu_us:8.1f} µs each" if sample.pss_base_bytes else " " * 16
    print(f"{start} {cost} {sample.rate:10,.0f} a second", flush=True)


def _options(argv: list[str] | None) -> argparse.Namespace:
    gateways: list[str] = [each.name for each in GATEWAYS]
    works: list[str] = [each.name for each in suites.full()]
    said = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if argv is None else argv)])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--full", action="store_true", help="all gateways, all works: about 13 minutes a round"
    )
    size.add_argument("--tiny", action="store_true", help="seconds: shows that the harness works")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--gateway", action="append", choices=gateways, help="only it; repeats")
    parser.add_argument("--workload", action="append", choices=works, help="only it; repeats")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--command", default=said, help="named on the page")
    parser.add_argument("--from", dest="source", type=Path, help="a performance.json: no new run")
    parser.add_argument(
        "--section", action="append", type=Path, help="Markdown for the page; repeats"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
