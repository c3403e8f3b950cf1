"""How many requests each candidate has in flight, and who waits for room, first come first served.

Used by `forward` alone: it takes a candidate and releases it in `finally`. A slot that comes free
goes straight to whoever has waited longest for it, so that nobody barges in. When candidates
themselves change (a node registers, a reload), `look_again` sends everyone who waits back to plan.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from rolemesh.core.types import Candidate


class _Waiter:
    __slots__ = ("candidates", "future")

    def __init__(
        self, candidates: Sequence[Candidate], future: asyncio.Future[Candidate | None]
    ) -> None:
        self.candidates = candidates
        self.future = future


class Slots:
    def __init__(self) -> None:
        self._in_flight: Counter[str] = Counter()
        self._waiting: dict[_Waiter, None] = {}

    def in_flight(self, key: str) -> int:
        return self._in_flight[key]

    def take(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The first with room; None when all are full, or when others wait for one of them."""
        for candidate in candidates:
            if self._has_room(candidate) and not self._is_waited_for(candidate.key):
                self._in_flight[candidate.key] += 1
                return candidate
        return None

    async def wait(self, candidates: Sequence[Candidate], wait_s: float) -> Candidate | None:
        """As `take`, but wait for it. None: plan again. Raises TimeoutError."""
        future: asyncio.Future[Candidate | None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(candidates, future)
        self._waiting[waiter] = None
        try:
            async with asyncio.timeout(wait_s):
                return await future
        except BaseException:
            # Given a slot and cancelled in the same turn of the loop: hand it on.
            if future.done() and not future.cancelled() and (given := future.result()) is not None:
                self.release(given)
            raise
        finally:
            self._waiting.pop(waiter, None)

    def release(self, candidate: Candidate) -> None:
        key = candidate.key
        self._in_flight[key] -= 1
        if self._waiting:
            self._hand_on(key)
        if not self._in_flight[key]:
            del self._in_flight[key]

    def look_again(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.future.done():
                waiter.future.set_result(None)

    def _hand_on(self, key: str) -> None:
        for waiter in self._waiting:
            if waiter.future.done():
                continue
            for candidate in waiter.candidates:
                if candidate.key == key and self._has_room(candidate):
                    self._in_flight[key] += 1
                    waiter.future.set_result(candidate)
                    return

    def _has_room(self, candidate: Candidate) -> bool:
        limit = candidate.limit
        return limit is None or self._in_flight[candidate.key] < limit

    def _is_waited_for(self, key: str) -> bool:
        return any(
            candidate.key == key
            for waiter in self._waiting
            if not waiter.future.done()
            for candidate in waiter.candidates
        )
