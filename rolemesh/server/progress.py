"""Whether a client that has something to take still takes any of it."""

from __future__ import annotations

STALLED_S = 60.0


class Progress:
    """Of one connection. Asked by the sweep, also while the connection is closing."""

    __slots__ = ("_moved_at", "_taken")

    def __init__(self) -> None:
        self._taken: int | None = None  # nothing is waiting to be taken
        self._moved_at = 0.0

    def is_stalled(self, written: int, unsent: int, now: float) -> bool:
        """`written`: bytes given to the transport so far, by this protocol: another one may have
        served the connection before; `unsent`: those that it still holds."""
        taken = written - unsent if unsent else None
        if taken != self._taken:
            self._taken = taken
            self._moved_at = now
        return taken is not None and now - self._moved_at > STALLED_S
