"""The fast lane: serves the ordinary shape of a model request with a small protocol of our own.

In front of aiohttp, on the same port. `wire/ordinary` recognises the shape; at the first sign of
anything else the connection is handed to aiohttp with the bytes replayed, between two requests and
while writing is not paused, and stays there. Both lanes end in the same `HttpServer.serve`, through
the same downstream: there is one request path, not two.

A client's reading is never paused while it is served: under `pause_reading` its leaving would go
unseen. So what it sends ahead is bounded (MAX_AHEAD_BYTES); more closes the connection.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop, Task
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, cast

from rolemesh.core.types import Flow
from rolemesh.errors import RequestTimeout
from rolemesh.server.connection import (
    BODY_S,
    HEAD_S,
    KEEP_ALIVE_S,
    LINGER_S,
    MAX_AHEAD_BYTES,
    WRITE_BUFFER_BYTES,
    hears_on,
)
from rolemesh.server.downstream import ConnectionDownstream, bytes_given
from rolemesh.server.lane_request import LaneRequest
from rolemesh.server.progress import Progress
from rolemesh.wire.ordinary import Recogniser, Verdict

if TYPE_CHECKING:
    from rolemesh.server.http import HttpServer

MAX_LOOKS = 32  # a head in more reads than that is aiohttp's, whose parser does not begin anew


class LaneConnection(asyncio.Protocol):
    """`flow`: the relay that is told of back-pressure. `written`: bytes given to the transport,
    less those that the relay counts."""

    __slots__ = (
        "_ahead", "_close_at", "_heard_at", "_lane", "_looks", "_loop", "_peer", "_progress",
        "_request", "_since", "_task", "flow", "transport", "writing_paused", "written",
    )  # fmt: skip

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        self._lane = lane
        self._loop = loop
        self._ahead = b""  # bytes behind the request that is being served, or half a head
        self._request: LaneRequest | None = None  # being received or served
        self._task: asyncio.Task[None] | None = None
        self._looks = 0  # at a head that is not whole
        self._since: float | None = None  # when the head that is not whole began
        self._heard_at = 0.0
        self._close_at: float | None = None
        self._peer: str | None = None
        self._progress = Progress()
        self.flow: Flow | None = None
        self.transport: asyncio.Transport | None = None
        self.writing_paused = False
        self.written = 0

    @property
    def busy(self) -> bool:
        return self._request is not None

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def check(self, now: float) -> None:
        """Called by the sweep: is one of the limits of time over?"""
        transport, request = self.transport, self._request
        if transport is None:
            return
        if self._progress.is_stalled(bytes_given(self), transport.get_write_buffer_size(), now):
            transport.abort()
        elif self._close_at is not None:
            if now > self._close_at:
                transport.close()
        elif request is None:
            since, limit_s = self._heard_at, KEEP_ALIVE_S
            if self._since is not None:
                since, limit_s = self._since, HEAD_S
            if now - since > limit_s:
                transport.close()
        elif request.is_waiting and now - self._heard_at > BODY_S:
            request.fail(RequestTimeout("The request's body stopped coming."))

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else None
        self._heard_at = self._since = self._loop.time()
        self._lane.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._lane.connections.discard(self)
        if self.flow is not None:
            self.flow.pause()  # for good: the task is cancelled in a later turn of the loop
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:
        waits = self.flow is None and (self.busy or len(self._ahead) > 0)
        return waits and hears_on(self.transport, self._loop)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        request = self._request
        if request is not None and request.missing:
            data = request.feed(data)
            if self._close_at is not None:  # an upload that was refused
                request.forget_body()
                if not request.missing:
                    self.close()
                return
            if not data:
                return
        self._ahead = self._ahead + data if self._ahead else data
        if self._request is None:
            self._begin()
        if len(self._ahead) > MAX_AHEAD_BYTES:
            self.close()

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self.flow is not None:
            self.flow.pause()

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self.flow is not None:
            self.flow.resume()
        if self._ahead:
            self._begin()

    # One request after the other

    def _begin(self) -> None:
        if self._request is not None or self.writing_paused or self.transport is None:
            return
        ordinary = self._lane.recogniser.look(self._ahead)
        if ordinary is Verdict.MORE and self._looks < MAX_LOOKS:
            self._looks += 1
            if self._since is None:
                self._since = self._loop.time()
            return
        if isinstance(ordinary, Verdict):
            self._hand_over()
            return
        self._since = None
        self._looks = 0
        head, body_at, length = ordinary
        end = body_at + length
        request = LaneRequest(head, length, self._peer, self._ahead[body_at:end])
        self._ahead = self._ahead[end:]
        self._request = request
        self._task = _start(self._serve(request), self._loop)

    async def _serve(self, request: LaneRequest) -> None:
        server = self._lane.server
        downstream = ConnectionDownstream(self, keep_alive=True, head_only=False, old_client=False)
        try:
            await server.serve(server.inbound(request, downstream))
        finally:
            self._task = None
            self._end(keep_alive=downstream.keep_alive and not server.draining)

    def _end(self, *, keep_alive: bool) -> None:
        request = self._request
        if request is not None and request.has_unread_body and not request.late:
            # It gets to see its answer while the rest of it is read and thrown away.
            self._close_at = self._loop.time() + LINGER_S
            request.forget_body()
            return
        self._request = None
        self._heard_at = self._loop.time()  # an idle connection is one since its last answer
        if not keep_alive:
            self.close()
        elif self._ahead:
            self._loop.call_soon(self._begin)  # a call of its own: hundreds may be waiting in line

    def _hand_over(self) -> None:
        transport, data = self.transport, self._ahead
        if transport is None:
            return
        self._lane.connections.discard(self)
        self.transport = None
        self._ahead = b""
        self._lane.hand_over(transport, data, self._since)


class Lane:
    """Every connection in the fast lane."""

    def __init__(self, server: HttpServer, paths: Sequence[str]) -> None:
        self.server = server
        self.recogniser = Recogniser(paths)
        self.connections: set[LaneConnection] = set()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> LaneConnection:
        return LaneConnection(self, self._loop)

    def __len__(self) -> int:
        return len(self.connections)

    @property
    def transports(self) -> list[asyncio.Transport]:
        return [each.transport for each in self.connections if each.transport is not None]

    def sweep(self, now: float) -> None:
        for connection in tuple(self.connections):
            connection.check(now)

    def close_idle(self) -> None:
        for connection in tuple(self.connections):
            if not connection.busy:
                connection.close()

    def hand_over(self, transport: asyncio.Transport, data: bytes, since: float | None) -> None:
        """From now on the connection is aiohttp's; the clock of its head goes along."""
        connection = self.server.connections()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.take_over(data, since)


def _start(work: Coroutine[Any, Any, None], loop: AbstractEventLoop) -> Task[None]:
    """Where Python can, the task runs at once to its first wait: one turn of the loop less. A name
    of its own would be made for each."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, name="request", eager_start=True)
    else:  # noqa: RET505 - mypy passes over the branch of the other versions
        return asyncio.Task(work, loop=loop, name="request")
