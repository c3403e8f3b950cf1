"""Keeps one lease at one gateway: registers, renews, registers again, until it is cancelled.

Run as a task per gateway by `rolemesh register --keep-alive` and by the node. A gateway that is
down or refuses is asked again after a growing, jittered pause; the log says when that begins and
ends.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from rolemesh.core.types import Heartbeat, Registration
from rolemesh.errors import RoleMeshError, UnknownNode
from rolemesh.register.client import Client

log = logging.getLogger("rolemesh.register")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
SHORTEST_INTERVAL_S = 0.05
GOODBYE_S = 5.0


class LeaseKeeper:
    """`registered`: whether the last exchange was accepted. `accepted` is set at the first one."""

    def __init__(
        self,
        client: Client,
        registration: Callable[[], Registration],
        heartbeat: Callable[[], Heartbeat],
        interval_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.registered = False
        self.accepted = asyncio.Event()
        self._client = client
        self._registration = registration
        self._heartbeat = heartbeat
        self._own_interval_s = interval_s
        self._chance = chance
        self._again = asyncio.Event()
        self._known = False  # the gateway has our registration: a heartbeat will do
        self._failures = 0

    def register_anew(self) -> None:
        """Now, instead of the next heartbeat."""
        self._known = False
        self._again.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            pause_s = await self._exchange()
            self._again.clear()
            await self._pause(pause_s)

    async def goodbye(self) -> None:
        """Take the lease back, bounded. Never raises: the lease ends by itself, too."""
        if not self._known:
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

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._again.wait()
        except TimeoutError:
            return

    async def _exchange(self) -> float:
        """One registration or heartbeat. Returns how long to wait before the next, in seconds."""
        try:
            asked_s = await self._renew()
        except UnknownNode:
            self._known = False
            log.info("%s does not know the node: registering again", self._client.gateway.url)
            # At once, but not for ever at once.
            return self._back_off() if self._failures else self._count_failure(0.0)
        except RoleMeshError as error:
            if self._failures == 0 or self.registered:
                log.warning("not registered, trying again: %s", error)
            self.registered = False
            return self._back_off()
        if not self.registered:
            log.info("registered with %s", self._client.gateway.url)
        self._known = self.registered = True
        self.accepted.set()
        self._failures = 0
        interval_s = max(SHORTEST_INTERVAL_S, min(self._own_interval_s, asked_s))
        # Up to a tenth earlier: nodes that started together do not stay in step.
        return interval_s * (1 - 0.1 * self._chance())

    async def _renew(self) -> float:
        if self._known:
            return await self._client.heartbeat(self._heartbeat())
        return await self._client.register(self._registration())

    def _back_off(self) -> float:
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 16))
        return self._count_failure(longest_s * (0.5 + 0.5 * self._chance()))

    def _count_failure(self, pause_s: float) -> float:
        self._failures += 1
        return pause_s
