"""How many requests each candidate has in flight, and who waits for room, first come first served.

Used by `forward` alone: it takes a candidate and releases it in `finally`. A slot that comes free
goes straight to whoever has waited longest for it, so that nobody barges in. When candidates
themselves change (a node registers, a reload), `look_again` sends everyone who waits back to plan.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence

from rolemesh.core.types import Candidate


class _Waiter:
    __slots__ = ("candidates", "future")

    def __init__(
        self, candidates: Sequence[Candidate], future: asyncio.Future[Candidate | None]
    ) -> None:
        self.candidates = {candidate.key: candidate for candidate in candidates}
        self.future = future


class Slots:
    def __init__(self) -> None:
        self._in_flight: dict[str, int] = {}
        # By key, in the order of coming: a release need not look at those who wait for others.
        self._waiting: dict[str, OrderedDict[_Waiter, None]] = {}

    def in_flight(self, key: str) -> int:
        return self._in_flight.get(key, 0)

    def take(self, candidates: Iterable[Candidate], but: Container[str] = ()) -> Candidate | None:
        """The first with room whose key is not among `but`. None: all are full, or others wait for
        one of them."""
        in_flight = self._in_flight
        for candidate in candidates:
            key = candidate.key
            if (
                key not in but
                and (candidate.limit is None or in_flight.get(key, 0) < candidate.limit)
                and not (self._waiting and self._first_waiting(key))
            ):
                in_flight[key] = in_flight.get(key, 0) + 1
                return candidate
        return None

    async def wait(self, candidates: Sequence[Candidate], wait_s: float) -> Candidate | None:
        """As `take`, but wait for it. None: plan again. Raises TimeoutError."""
        future: asyncio.Future[Candidate | None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(candidates, future)
        for key in waiter.candidates:
            self._waiting.setdefault(key, OrderedDict())[waiter] = None
        try:
            async with asyncio.timeout(wait_s):
                return await future
        except BaseException:
            # Given a slot and cancelled in the same turn of the loop: hand it on.
            if future.done() and not future.cancelled() and (given := future.result()) is not None:
                self.release(given)
            raise
        finally:
            self._forget(waiter)

    def release(self, candidate: Candidate) -> None:
        key = candidate.key
        left = self._in_flight[key] - 1
        if self._waiting and (waiter := self._first_waiting(key)) is not None:
            waiting = waiter.candidates[key]
            if waiting.limit is None or left < waiting.limit:
                left += 1
                waiter.future.set_result(waiting)
        if left:
            self._in_flight[key] = left
        else:
            del self._in_flight[key]

    def look_again(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiters in waiting.values():
            for waiter in waiters:
                if not waiter.future.done():
                    waiter.future.set_result(None)

    def _first_waiting(self, key: str) -> _Waiter | None:
        while waiters := self._waiting.get(key):
            waiter = next(iter(waiters))
            if not waiter.future.done():
                return waiter
            self._forget(waiter)  # it left, or was given another slot, and has not run since
        return None

    def _forget(self, waiter: _Waiter) -> None:
        for key in waiter.candidates:
            waiters = self._waiting.get(key)
            if waiters is not None:
                waiters.pop(waiter, None)
                if not waiters:
                    del self._waiting[key]
