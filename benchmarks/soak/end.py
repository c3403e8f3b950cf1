"""How the gateway of a long run came to its end, and what its log says of the time before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
from attrs import frozen

from benchmarks.process import Process

MAX_LINES = 20
_PROVOKED = "the configuration was not reloaded"  # the soak breaks it itself
_WRONG = ("error", "critical")


@frozen
class Line:
    level: str
    message: str = ""


def faults(process: Process, log: Path) -> list[str]:
    """In words; `process` has been stopped."""
    found = []
    if process.was_killed:
        found.append("the gateway did not end when it was told to, and was killed")
    elif process.returncode:
        found.append(f"the gateway ended with code {process.returncode}")
    with log.open("rb") as lines:
        return found + [f"in its log: {each}" for each in islice(wrong_lines(lines), MAX_LINES)]


def wrong_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Errors, and what is no line of a log: a traceback that nobody caught."""
    for each in lines:
        try:
            line = msgspec.json.decode(each, type=Line)
        except msgspec.DecodeError:
            yield each.decode(errors="replace").rstrip()
            continue
        if line.level in _WRONG and not line.message.startswith(_PROVOKED):
            yield each.decode(errors="replace").rstrip()
