"""A client's connection: aiohttp's request handler, with what it lacks.

aiohttp parses requests and keeps connections alive; `ClientConnection` adds limits of time (one
sweep for all, no timers), flow control for a relay, errors in our shape, and a bound on pipelining.
`ClientConnections` makes them and sweeps. A client that leaves cancels the task that serves it
(handler_cancellation).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from aiohttp import http_exceptions, web
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from rolemesh.core.types import Flow
from rolemesh.errors import HeadersTooLarge, RequestError, RequestTimeout
from rolemesh.server.downstream import bytes_given
from rolemesh.server.progress import Progress

HEAD_S = 15.0
BODY_S = 30.0
KEEP_ALIVE_S = 75.0
LINGER_S = 2.0
FLUSH_STEP_S = 0.02
WRITE_BUFFER_BYTES = 65_536
MAX_PIPELINED = 8
MAX_LINE_BYTES = 8_190
MAX_FIELDS = 128

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Answered(web.StreamResponse):
    """Tells aiohttp that the answer has been written. Its methods do nothing."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


ANSWERED, ANSWERED_LAST = Answered(keep_alive=True), Answered(keep_alive=False)


class ClientConnection(RequestHandler):
    """`flow`: the relay that is told of back-pressure. `busy`: a request is being served.
    `written`: bytes given to the transport, less those that the relay counts."""

    __slots__ = ("_head_since", "_late", "_progress", "body", "busy", "flow", "heard_at", "written")

    def __init__(self, manager: ClientConnections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            cast(web.Server, manager),
            loop=loop,
            keepalive_timeout=KEEP_ALIVE_S,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_FIELDS,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self.flow: Flow | None = None
        self.busy = False
        self.body: StreamReader | None = None  # being read by the handler
        self.heard_at = 0.0
        self.written = 0
        self._head_since: float | None = None
        self._late = False  # the body stopped coming: nothing is left to wait for
        self._progress = Progress()

    # Towards the server's handler

    def begin(self) -> None:
        """A request's head is whole."""
        self.busy = True
        self._head_since = None

    def finish(self) -> None:
        self.busy = False
        self.body = None
        if self._late:
            self.force_close()

    async def drained(self) -> None:
        """Until the client has taken what is ready for it: no answer is made before that."""
        await self._drain_helper()

    def check(self, transport: asyncio.Transport, now: float) -> None:
        """Called by the sweep: is one of the limits of time over? `transport` is told, because
        aiohttp lets go of it while it may still have bytes to send."""
        if self._progress.is_stalled(bytes_given(self), transport.get_write_buffer_size(), now):
            transport.abort()
        elif self._head_since is not None and now - self._head_since > HEAD_S:
            self.force_close()
        elif self.body is not None and now - self.heard_at > BODY_S:
            self._late = True
            self.body.set_exception(RequestTimeout("The request's body stopped coming."))

    def take_over(self, data: bytes, head_since: float | None) -> None:
        """From the fast lane: what has come of a request, and since when its head is awaited."""
        if head_since is not None:
            self._head_since = head_since
        self.data_received(data)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._head_since = self.heard_at = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.flow is not None:
            self.flow.pause()  # for good: the handler is cancelled in a later turn of the loop
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        if not self.busy and self._head_since is None:
            self._head_since = self.heard_at
        super().data_received(data)
        if len(self._messages) > MAX_PIPELINED:
            self.force_close()

    def pause_reading(self) -> None:
        """Asked by the buffer of a body. Under it a client's leaving would not be seen, so it is
        only granted while that body is being read; a body behind the served request is too much."""
        if self.busy and self.body is None:
            self.force_close()
        else:
            super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for it with every body, paused or not, and parses what is not there."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.flow is not None:
            self.flow.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.flow is not None:
            self.flow.resume()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's way out for what its own loop could not do; nothing of ours ends here."""
        raise ConnectionError("the request was broken off") from exc

    def _make_error_handler(self, err_info: object) -> Handler:
        """A request that the parser refused goes to the same handler as all others."""
        raised: BaseException | None = getattr(err_info, "exc", None)
        error = parser_error(raised)
        if raised is not None:
            raised.__traceback__ = None  # it ends in a frame of aiohttp that holds what was raised
        serve = cast("ClientConnections", self._manager).refuse

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return await serve(request, error)

        return handler


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


def parser_error(error: BaseException | None) -> RequestError:
    """In our words: the parser's repeat the client's bytes."""
    if isinstance(error, http_exceptions.LineTooLong) or "Too many headers" in str(error):
        return HeadersTooLarge(
            f"The request's head is too large: at most {MAX_LINE_BYTES} bytes a line and"
            f" {MAX_FIELDS} fields."
        )
    match error:
        case http_exceptions.BadHttpMethod() | http_exceptions.BadStatusLine():
            return RequestError("The request line is not one of HTTP/1.1.")
        case http_exceptions.InvalidURLError():
            return RequestError("The request's target is not a valid URL.")
        case http_exceptions.InvalidHeader():
            return RequestError("A header of the request is malformed.")
    return RequestError("The request is not valid HTTP/1.1.")
