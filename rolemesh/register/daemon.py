"""`register --keep-alive` as a daemon: a lease keeper per gateway, and a goodbye at the end.

Driven by `server.life`. It is started when the first gateway has accepted, so that what is ordered
after it can count on that; a gateway that is down holds up nobody's lease but its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from rolemesh.core.types import Heartbeat, Registration
from rolemesh.register.client import Client, Gateway
from rolemesh.register.keep import LeaseKeeper


class KeepRegistered:
    """A `life.Daemon`. `interval_s` is our own; a gateway may ask for a shorter one."""

    def __init__(
        self, gateways: Sequence[Gateway], registration: Registration, interval_s: float
    ) -> None:
        self._gateways = gateways
        self._registration = registration
        self._interval_s = interval_s
        self._keepers: list[LeaseKeeper] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._clients = contextlib.AsyncExitStack()

    async def startup(self) -> None:
        for gateway in self._gateways:
            client = await self._clients.enter_async_context(Client(gateway))
            self._keepers.append(self._keeper(client))
        self._tasks = [asyncio.create_task(keeper.run()) for keeper in self._keepers]
        first = [asyncio.create_task(keeper.accepted.wait()) for keeper in self._keepers]
        try:
            await asyncio.wait([*first, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in first:
                task.cancel()

    async def reload(self) -> None:
        """Nothing is read again, but every gateway is told anew at once."""
        for keeper in self._keepers:
            keeper.register_anew()

    async def drain(self) -> None:
        """Take the leases back; requests in flight are the gateway's and the server's."""
        await self._end_tasks()
        await asyncio.gather(*(keeper.goodbye() for keeper in self._keepers))

    async def shutdown(self) -> None:
        await self._end_tasks()
        await self._clients.aclose()

    def status(self) -> str:
        registered = sum(keeper.registered for keeper in self._keepers)
        return f"Registered with {registered} of {len(self._gateways)} gateways"

    def _keeper(self, client: Client) -> LeaseKeeper:
        beat = Heartbeat(self._registration.node_id)
        return LeaseKeeper(client, lambda: self._registration, lambda: beat, self._interval_s)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
