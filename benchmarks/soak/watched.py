"""The gateway as it comes, with a window in it: `python -m benchmarks.soak.watched gateway ...`.

A signal opens the window: what the kernel cannot tell is then appended, as a line of JSON, to the
file that WATCHED_FILE names. SIGUSR1 counts asyncio's tasks and the blocks of memory that Python's
objects take, which costs microseconds. SIGUSR2 names the tasks, counts the objects of each type
and, with WATCHED_TRACE set, says which lines of code hold more memory than at the first such
signal; and what only the collector of cycles would have freed. For finding a leak, not for
measuring.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from attrs import define, field

from rolemesh.cli import main

FILE = "WATCHED_FILE"
TRACE = "WATCHED_TRACE"  # how many frames of each allocation
MOST = 40


@define
class Window:
    path: Path
    first: tracemalloc.Snapshot | None = field(default=None)

    def count_tasks(self, number: int, frame: FrameType | None) -> None:
        self._tell(tasks=len(asyncio.all_tasks()), blocks=sys.getallocatedblocks())

    def count_all(self, number: int, frame: FrameType | None) -> None:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        cycles = _types(gc.garbage)
        gc.garbage.clear()
        gc.collect()  # what was found was not freed
        types = _types(gc.get_objects())
        names = sorted(map(_name, asyncio.all_tasks()))
        self._tell(names=names[:MOST], types=types, cycles=cycles, grown=self._grown())

    def _grown(self) -> list[str]:
        if not tracemalloc.is_tracing():
            return []
        now = tracemalloc.take_snapshot()
        if self.first is None:
            self.first = now
            return []
        return [str(each) for each in now.compare_to(self.first, "traceback")[:MOST]]

    def _tell(self, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def _types(objects: Iterable[object]) -> dict[str, int]:
    counts = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in objects)
    return dict(counts.most_common(MOST))


def _name(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", coroutine))


def open_window() -> None:
    window = Window(Path(os.environ[FILE]))
    signal.signal(signal.SIGUSR1, window.count_tasks)
    signal.signal(signal.SIGUSR2, window.count_all)
    if TRACE in os.environ:
        tracemalloc.start(int(os.environ[TRACE]))


if __name__ == "__main__":
    open_window()
    main()
