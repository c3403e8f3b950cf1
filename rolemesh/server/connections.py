"""Every client's connection that aiohttp serves: made here, swept, and closed in the end.

Owned by `http`. What one of them does, `connection` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from aiohttp import web

from rolemesh.errors import RequestError
from rolemesh.server.connection import ClientConnection, Handler

FLUSH_STEP_S = 0.02


class ClientConnections(web.Server):
    """Every open connection. `serve` answers a request, `refuse` one whose head is no request."""

    def __init__(
        self,
        serve: Handler,
        refuse: Callable[[web.BaseRequest, RequestError], Awaitable[web.StreamResponse]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(serve, handler_cancellation=True, loop=loop)
        self.refuse = refuse

    def __call__(self) -> ClientConnection:
        return ClientConnection(self, self._loop)

    def __len__(self) -> int:
        return len(self._connections)

    def sweep(self, now: float) -> None:
        for connection, transport in tuple(self._connections.items()):
            cast(ClientConnection, connection).check(transport, now)

    def close_idle(self) -> None:
        for connection in self.connections:
            if not cast(ClientConnection, connection).busy:
                connection.force_close()

    @property
    def transports(self) -> list[asyncio.Transport]:
        return list(self._connections.values())


async def close_gently(transports: Sequence[asyncio.Transport], flush_s: float) -> None:
    """Close all, waiting so long for clients to take what is written."""
    for transport in transports:
        transport.close()
    for _ in range(round(flush_s / FLUSH_STEP_S)):
        if not any(transport.get_write_buffer_size() for transport in transports):
            break
        await asyncio.sleep(FLUSH_STEP_S)
    for transport in transports:
        transport.abort()
