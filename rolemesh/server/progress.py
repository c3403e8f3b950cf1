"""Whether a client that was sent more than it takes still takes anything at all."""

from __future__ import annotations

STALLED_S = 60.0


class Progress:
    """Of one connection whose write buffer is full. Asked by the sweep."""

    __slots__ = ("_buffered", "_moved_at")

    def __init__(self) -> None:
        self._buffered = 0
        self._moved_at = 0.0

    def begin(self, buffered: int, now: float) -> None:
        """The buffer has become full."""
        self._buffered = buffered
        self._moved_at = now

    def is_stalled(self, buffered: int, now: float) -> bool:
        if buffered < self._buffered:
            self._moved_at = now
        self._buffered = buffered
        return now - self._moved_at > STALLED_S
