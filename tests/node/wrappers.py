"""Wrapper scripts of the kinds that operators write, and the processes that they leave about.

Each process that is to vanish notes its pid in the file $PIDS.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rolemesh.node import groups

_NOTE = 'echo $$ >>"$PIDS"'
_LEAF = f"sh -c {shlex.quote(f'{_NOTE}; exec sleep 1000')}"
_OWN_GROUP = shlex.join(
    [sys.executable, "-I", "-S", "-c", f"import os; os.setpgid(0, 0); os.system({_LEAF!r})"]
)

# By kind: the script, and how many pids it notes.
WRAPPERS = {
    "waits for a child": (f"{_NOTE}; {_LEAF} & wait", 2),
    "becomes another program": (f"{_NOTE}; exec sleep 1000", 1),
    "ignores SIGTERM, and its child with it": (f"trap '' TERM; {_NOTE}; {_LEAF} & wait", 2),
    "has a group of its own made, as job control does": (f"{_OWN_GROUP} & wait", 1),
    "forks twice": (f"({_LEAF} &); {_NOTE}; exec sleep 1000", 2),
    "makes a session": (f"setsid {_LEAF} & {_NOTE}; wait", 2),
    "makes a session and leaves it": (f"(setsid {_LEAF} &); {_NOTE}; exec sleep 1000", 2),
    "clears the environment": (f'env -i PIDS="$PIDS" PATH="$PATH" {_LEAF} & {_NOTE}; wait', 2),
    "clears the environment in a session": (
        f'env -i PIDS="$PIDS" PATH="$PATH" setsid {_LEAF} & {_NOTE}; wait',
        2,
    ),
}


def argv(kind: str) -> list[str]:
    return ["sh", "-c", WRAPPERS[kind][0]]


def env(pids: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PIDS": str(pids)}


def noted(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split()] if pids.exists() else []


def alive(pid: int) -> bool:
    found = groups.entry(pid)
    return found is not None and not found.dead


def living(pids: Path) -> list[int]:
    return [pid for pid in noted(pids) if alive(pid)]


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - a process that is not ours has no event
            await asyncio.sleep(0.01)
