"""What became of a stream's numbered events: which are lost, moved, doubled or spoilt.

Pure: fed with a body's bytes as they come. `script` numbers the events and says how each of them
looks; a number that is behind others is looked for until the stream has ended.
"""

from __future__ import annotations

import re

from attrs import frozen

from benchmarks.script import DONE, Script, pieces

_NUMBER = re.compile(rb'"(\d{5,}) ')


@frozen
class Losses:
    """Events, over all streams. `spoilt`: no event of the script, or not as it was sent."""

    lost: int = 0
    reordered: int = 0
    duplicated: int = 0
    spoilt: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(
            self.lost + other.lost,
            self.reordered + other.reordered,
            self.duplicated + other.duplicated,
            self.spoilt + other.spoilt,
        )


class Numbered:
    """One stream. `received`: its events so far, `[DONE]` not counted."""

    __slots__ = ("_half", "_missing", "_next", "_pieces", "done", "received", "seen")

    def __init__(self, script: Script) -> None:
        self._pieces = pieces(script)
        self._half = b""
        self._next = 0
        self._missing: set[int] = set()
        self.received = 0
        self.done = False
        self.seen = Losses()

    def feed(self, data: bytes) -> None:
        *events, self._half = (self._half + data).split(b"\n\n")
        for event in events:
            self._note(event + b"\n\n")

    @property
    def losses(self) -> Losses:
        """Were the stream to end now."""
        lost = len(self._missing) + len(self._pieces) - 1 - self._next
        spoilt = int(not self.done or bool(self._half))
        return self.seen + Losses(lost=lost, spoilt=spoilt)

    def _note(self, event: bytes) -> None:
        if event == DONE and not self.done:
            self.done = True
            return
        found = _NUMBER.search(event)
        number = -1 if found is None else int(found[1])
        if self.done or not 0 <= number < len(self._pieces) or event != self._pieces[number]:
            self.seen += Losses(spoilt=1)
            return
        self.received += 1
        if number >= self._next:
            if number > self._next:
                self._missing.update(range(self._next, number))
            self._next = number + 1
        elif number in self._missing:
            self._missing.remove(number)
            self.seen += Losses(reordered=1)
        else:
            self.seen += Losses(duplicated=1)
