"""`python -m benchmarks`: runs the comparison, prints its tables, writes JSON and the page."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import workloads
from benchmarks.figures import Sample, void
from benchmarks.gateways import GATEWAYS
from benchmarks.machine import machine
from benchmarks.report import Run, Work, as_json, page, tables
from benchmarks.runner import run

ROUNDS = 5


def main(argv: list[str] | None = None) -> int:
    """0; 1 when the run is void; 2 when a gateway that was asked for by name is not there."""
    options = _options(argv)
    asked = [each for each in GATEWAYS if not options.gateway or each.name in options.gateway]
    present = [each for each in asked if each.version() is not None]
    absent = {each.name: each.install for each in asked if each not in present}
    for name, how in absent.items():
        print(f"{name} is not installed ({how}): it is left out", file=sys.stderr)
    if options.gateway and absent:
        return 2
    works = workloads.tiny() if options.tiny else workloads.quick()
    samples = run(present, works, options.rounds, _tell)
    done = Run(
        command=options.command,
        at=datetime.now(UTC).date().isoformat(),
        rounds=options.rounds,
        machine=machine(present),
        settings={each.name: each.setting for each in present},
        missing=absent,
        works=tuple(Work(each.name, each.title, each.unit, each.fixed_rate) for each in works),
        samples=tuple(samples),
    )
    return _finish(done, options.out)


def _finish(done: Run, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    (out / "performance.json").write_bytes(as_json(done))
    spoilt = void(done.samples)
    if spoilt:
        for each in spoilt:
            words = "; ".join(each.outcome.errors) or "nothing came back"
            print(f"void: {each.gateway}, {each.workload}: {words}", file=sys.stderr)
        return 1
    (out / "performance.md").write_text(page(done))
    print(f"\n{tables(done)}\n\nwritten: {out / 'performance.md'}, {out / 'performance.json'}")
    return 0


def _tell(sample: Sample) -> None:
    cost = f"{sample.cpu_us:8.1f} µs each" if sample.pss_base_bytes else "               "
    what = "void" if sample.is_void else f"{cost} {sample.rate:10,.0f} a second"
    print(f"{sample.round + 1} {sample.workload:<9} {sample.gateway:<9} {what}", flush=True)


def _options(argv: list[str] | None) -> argparse.Namespace:
    names: list[str] = [each.name for each in GATEWAYS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--gateway", action="append", choices=names, help="only this one; repeats")
    parser.add_argument("--tiny", action="store_true", help="seconds: shows that the harness works")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--command", default="make bench", help="named on the page")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
