"""`python -m benchmarks.peers`: makes the peers' environments, one after the other.

One that fails does not keep the others from being made: it is named here with the reason, and in
every run after that. So the exit code is 0 all the same, unless `--strict` asks for 1.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.peers import ENVIRONMENTS
from benchmarks.peers.environment import PLACE, install


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = [each.name for each in ENVIRONMENTS]
    parser.add_argument("--only", action="append", choices=names, help="this one; repeats")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when one fails")
    options = parser.parse_args(argv)
    failed = []
    for each in ENVIRONMENTS:
        if options.only and each.name not in options.only:
            continue
        print(f"{each.name}: installing into {PLACE / each.name} ...", flush=True)
        reason = install(each)
        if reason is None:
            print(f"{each.name}: {each.version()}")
        else:
            failed.append(each.name)
            print(f"{each.name}: failed: {reason}", file=sys.stderr)
    if failed:
        print(f"not installed: {', '.join(failed)}; runs will say so", file=sys.stderr)
    return int(bool(failed) and options.strict)


if __name__ == "__main__":
    sys.exit(main())
