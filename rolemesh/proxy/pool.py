"""Keep-alive connections to backends, and the opening of an exchange on one of them.

`Pools.open` is all that a conductor needs. A pool per place that can be connected to; the idle
connection used last is used first, and those that are idle for too long are closed by the sweep,
which also watches the open exchanges for time-outs: one coarse timer instead of one per chunk.
"""

from __future__ import annotations

import asyncio
import ssl

from rolemesh.core.failover import may_try_fresh
from rolemesh.core.health import Reason
from rolemesh.core.types import Backend, Timeouts
from rolemesh.proxy.connect import Place, connect, place_of, tls_context
from rolemesh.proxy.connection import Connection
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.proxy.names import Names

SWEEP_S = 0.25
# A new connection that has waited so long for its first byte may be waiting for a thread.
UNANSWERED_S = 0.1


class Pool:
    """The idle connections to one place. `awaited`: how many wait for a new one.

    While a new connection has waited for its first byte for UNANSWERED_S, none is kept idle: a
    server of few threads (llama-server) gives one to each idle connection, and lets the new one
    wait until that is closed. Over TLS they are kept all the same: what speaks TLS has threads
    enough, and a handshake costs more than a wait.
    """

    def __init__(self, place: Place, loop: asyncio.AbstractEventLoop) -> None:
        self.place = place
        self._loop = loop
        self._unanswered: dict[Connection, float] = {}  # since when, the oldest first
        self._idle: list[Connection] = []
        self._connections = 0
        self.awaited = 0

    @property
    def is_unused(self) -> bool:
        return not (self._connections or self.awaited)

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_until > now:
                return connection
            connection.abort()
        return None

    def keep(self, connection: Connection, idle_s: float) -> None:
        now = self._loop.time()
        if self._is_short_of_threads(now):
            connection.abort()
            return
        connection.idle_until = now + idle_s
        self._idle.append(connection)

    def begun(self, connection: Connection) -> None:
        """A new one, that no byte has come on."""
        self._connections += 1
        self._unanswered[connection] = self._loop.time()

    def answered(self, connection: Connection) -> None:
        """Its first byte has come, or none ever will."""
        del self._unanswered[connection]

    def lost(self, connection: Connection) -> None:
        self._connections -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        if self._is_short_of_threads(now):
            self.close()
        for connection in [each for each in self._idle if each.idle_until <= now]:
            self._idle.remove(connection)
            connection.abort()

    def close(self) -> None:
        for connection in self._idle[:]:
            connection.abort()
        self._idle.clear()

    def _is_short_of_threads(self, now: float) -> bool:
        if self.place.tls or not self._unanswered:
            return False
        return now - next(iter(self._unanswered.values())) > UNANSWERED_S


class Pools:
    """Every pool of the process, and every exchange that is open. `names` looks up hosts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, names: Names | None = None) -> None:
        self._loop = loop
        self._names = names or Names(loop)
        self._pools: dict[Place, Pool] = {}
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._exchanges: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, backend: Backend, request: list[bytes], timeouts: Timeouts) -> Exchange:
        """Send `request` and wait for the answer's head and first body byte. Raises Broken.

        A kept connection that is lost before any byte of an answer is replaced by a new one, once.
        The caller closes the exchange, also when it is cancelled while waiting in `relay`.
        """
        place = backend.kept.get(Place)
        if place is None:
            place = backend.kept[Place] = place_of(backend)
        pool = self._pools.get(place)
        if pool is None:
            pool = self._new_pool(place)
        connection = pool.take()
        reused = connection is not None
        while True:
            if connection is None:
                connection = await self._connect(pool, timeouts)
            exchange = self._begin(connection, request, timeouts)
            try:
                await exchange.opened
                return exchange
            except Broken as broken:
                self.release(exchange)
                if not may_try_fresh(broken.failure, reused, broken.received):
                    raise
            except BaseException:
                self.release(exchange)
                raise
            connection, reused = None, False

    def release(self, exchange: Exchange) -> None:
        """Close the exchange and watch it no more."""
        if exchange in self._exchanges:
            self._exchanges.discard(exchange)
            exchange.close()
            exchange.let_go()

    def forget_contexts(self) -> None:
        """Read the authorities' files again when they are next needed (after a reload)."""
        self._contexts.clear()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for exchange in tuple(self._exchanges):
            self.release(exchange)
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._names.close()

    def _new_pool(self, place: Place) -> Pool:
        pool = self._pools[place] = Pool(place, self._loop)
        self._watch()
        return pool

    async def _connect(self, pool: Pool, timeouts: Timeouts) -> Connection:
        pool.awaited += 1
        try:
            return await self._connect_at_need(pool, timeouts)
        finally:
            pool.awaited -= 1

    async def _connect_at_need(self, pool: Pool, timeouts: Timeouts) -> Connection:
        try:
            return await self._new_connection(pool, timeouts)
        except Broken as broken:
            if broken.reason is not Reason.NO_DESCRIPTORS or not self._has_idle():
                raise
        # What nobody needs now makes room for what somebody does.
        for each in tuple(self._pools.values()):
            each.close()
        await asyncio.sleep(0)  # the event loop closes them behind this turn
        return await self._new_connection(pool, timeouts)

    async def _new_connection(self, pool: Pool, timeouts: Timeouts) -> Connection:
        place = pool.place
        context = None
        if place.tls:
            context = self._contexts.get(place.ca_file)
            if context is None:
                context = self._contexts[place.ca_file] = tls_context(place.ca_file)
        connection = await connect(
            lambda: Connection(pool), place, self._names, context, timeouts.connect_s
        )
        connection.join()
        return connection

    def _has_idle(self) -> bool:
        return any(map(len, self._pools.values()))

    def _begin(self, connection: Connection, request: list[bytes], timeouts: Timeouts) -> Exchange:
        exchange = Exchange(connection, timeouts, self._loop)
        self._exchanges.add(exchange)
        if self._timer is None:
            self._watch()
        connection.begin(exchange, request)
        return exchange

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        for exchange in tuple(self._exchanges):
            exchange.check(now)
        for pool in tuple(self._pools.values()):
            pool.sweep(now)
            if pool.is_unused:  # nodes come and go
                del self._pools[pool.place]
        self._timer = None
        if self._exchanges or self._pools:
            self._watch()
