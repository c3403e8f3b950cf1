"""Keeps one lease at one gateway: registers, renews, registers again, until it is cancelled.

Run as a task per gateway by `rolemesh register --keep-alive` and by the node. A gateway that is
down or refuses is asked again after a growing, jittered pause, never longer than an interval, so
that the node is back an interval after the gateway is. The log says when that begins and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from attrs import frozen

from rolemesh.core.types import Heartbeat, Registration
from rolemesh.errors import RoleMeshError, UnknownNode
from rolemesh.register.client import Client

log = logging.getLogger("rolemesh.register")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
SHORTEST_INTERVAL_S = 0.05
SHORTEST_PATIENCE_S = 1.0
NEWS_GAP_S = 1.0
GOODBYE_S = 5.0


@frozen
class Trouble:
    """The last exchange that was not accepted, and when that was (on the event loop's clock)."""

    message: str
    at: float


class LeaseKeeper:
    """`registered`: whether the last exchange was accepted, `since` when it is so. `accepted` is
    set at the first one. `interval_s` is our own; the gateway may ask for a shorter one."""

    def __init__(
        self,
        client: Client,
        registration: Callable[[], Registration],
        heartbeat: Callable[[], Heartbeat],
        interval_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.interval_s = interval_s
        self.registered = False
        self.since: float | None = None
        self.trouble: Trouble | None = None
        self.accepted = asyncio.Event()
        self._client = client
        self._registration = registration
        self._heartbeat = heartbeat
        self._chance = chance
        self._asked_s: float | None = None
        self._again = asyncio.Event()
        self._news = asyncio.Event()
        self._known = False  # the gateway has our registration: a heartbeat will do
        self._in_doubt = False  # it may have it: its answer has not come
        self._failures = 0

    def register_anew(self) -> None:
        """Now, instead of the next heartbeat."""
        self._known = False
        self._again.set()
        self._news.set()

    def tell(self) -> None:
        """A heartbeat now, but a second after the one before at the soonest. Where the gateway does
        not answer, the next try tells it in time."""
        self._news.set()

    async def run(self) -> None:
        """For ever. Pauses count from the beginning of one exchange to that of the next."""
        while True:
            began_at = _now()
            self._again.clear()
            self._news.clear()
            pause_s = await self._exchange()
            await self._pause(began_at + pause_s, began_at + NEWS_GAP_S)

    async def goodbye(self) -> None:
        """Take the lease back, bounded. Never raises: the lease ends by itself, too."""
        if not (self._known or self._in_doubt):
            return
        node_id = self._registration().node_id
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._client.goodbye(node_id)
        except UnknownNode:
            return
        except (RoleMeshError, TimeoutError) as error:
            log.warning("the node %s could not be deregistered: %s", node_id, error)
        else:
            log.info("deregistered from %s", self._client.gateway.url)

    async def _pause(self, until: float, at_soonest: float) -> None:
        """Back-off is cut short by `register_anew` alone, an interval by `tell` too."""
        wake = self._again if self._failures else self._news
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await wake.wait()
                await asyncio.sleep(at_soonest - _now())

    async def _exchange(self) -> float:
        """One registration or heartbeat. Returns the seconds from its beginning to the next one."""
        patience_s = max(SHORTEST_PATIENCE_S, self._usual_s)
        try:
            async with asyncio.timeout(patience_s):
                self._asked_s = await self._renew()
        except UnknownNode:
            self._known = False
            log.info("%s does not know the node: registering again", self._client.gateway.url)
            # At once, but not for ever at once.
            return self._back_off() if self._failures else self._count_failure(0.0)
        except RoleMeshError as error:
            return self._failed(error.message)
        except TimeoutError:
            return self._failed(f"{self._client.gateway.url}: no answer within {patience_s:g} s")
        if not self.registered:
            log.info("registered with %s", self._client.gateway.url)
        self._turn(registered=True)
        self.accepted.set()
        self._failures = 0
        # Up to a tenth earlier: nodes that started together do not stay in step.
        return self._usual_s * (1 - 0.1 * self._chance())

    async def _renew(self) -> float:
        """The interval that the gateway asks for."""
        if self._known:
            return await self._client.heartbeat(self._heartbeat())
        self._in_doubt = True
        try:
            asked_s = await self._client.register(self._registration())
        except RoleMeshError:
            self._in_doubt = False
            raise
        self._in_doubt = False
        self._known = not self._again.is_set()
        if self._heartbeat().metrics is not None:
            self.tell()  # a registration has no place for them
        return asked_s

    @property
    def _usual_s(self) -> float:
        """How long it is from one heartbeat to the next."""
        asked_s = self.interval_s if self._asked_s is None else self._asked_s
        return max(SHORTEST_INTERVAL_S, min(self.interval_s, asked_s))

    def _failed(self, message: str) -> float:
        old, self.trouble = self.trouble, Trouble(message, _now())
        if self._failures == 0 or self.registered or old is None or old.message != message:
            log.warning("not registered, trying again: %s", message)
        self._turn(registered=False)
        return self._back_off()

    def _turn(self, *, registered: bool) -> None:
        if self.since is None or self.registered is not registered:
            self.since = _now()
        self.registered = registered

    def _back_off(self) -> float:
        longest_s = min(
            LONGEST_PAUSE_S, self._usual_s, FIRST_PAUSE_S * 2.0 ** min(self._failures, 16)
        )
        return self._count_failure(longest_s * (0.5 + 0.5 * self._chance()))

    def _count_failure(self, pause_s: float) -> float:
        self._failures += 1
        return pause_s


def _now() -> float:
    return asyncio.get_running_loop().time()
