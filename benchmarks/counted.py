"""A gateway that counts the function calls it makes: `python -m benchmarks.counted gateway ...`.

Calls of Python functions, and calls that those make of functions written in C, in the thread of the
event loop. For each line on stdin it prints the number so far. Told what to do by `calls`.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType

from rolemesh.cli import main


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


def _tell(counter: Counter) -> None:
    for _ in sys.stdin:
        print(counter.calls, flush=True)


if __name__ == "__main__":
    counter = Counter()
    threading.Thread(target=_tell, args=(counter,), daemon=True).start()
    sys.setprofile(counter)
    sys.exit(main())
