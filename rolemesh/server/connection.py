"""A client's connection: aiohttp's request handler, with what it lacks.

aiohttp parses requests and keeps connections alive; `ClientConnection` adds limits of time (one
sweep for all, no timers), flow control for a relay, and errors in our shape. `ClientConnections`
makes them and sweeps. A client that leaves cancels the task that serves it (handler_cancellation).

Of what a client sends ahead (pipelining), aiohttp's parser is given one request at a time, when the
one before it has been answered. Left to itself it parses all that has come, and of what is no
request it tells first. What waits is bytes, and bounded (MAX_AHEAD_BYTES): reading is not paused
for it, because a client's leaving would go unseen then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from aiohttp import http_exceptions, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

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
MAX_AHEAD_BYTES = 65_536
MAX_LINE_BYTES = 8_190
MAX_FIELDS = 128
BLANK_LINE = b"\r\n\r\n"

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
    """`flow`: the relay that is told of back-pressure. `written`: bytes given to the transport,
    less those that the relay counts."""

    __slots__ = (
        "_ahead", "_content", "_given", "_head_since", "_missing", "_progress", "_refused",
        "body", "flow", "heard_at", "written",
    )  # fmt: skip

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
        self.body: StreamReader | None = None  # being read by the handler
        self.heard_at = 0.0
        self.written = 0
        self._ahead = b""  # what the parser has not been given
        self._given = b""  # the last of what it has
        self._content: StreamReader | None = None  # of the request that is being served
        self._missing = 0  # bytes of it, where its length is told
        self._refused = False  # what came is no request: who knows where the next one begins?
        self._head_since: float | None = None
        self._progress = Progress()

    @property
    def busy(self) -> bool:
        """A request is being served, or the rest of its body thrown away."""
        return self._content is not None

    def finish(self) -> None:
        """The request has been answered. Where its body has not all come, it was the last one."""
        content, self.body = self._content, None
        if content is None or content.exception() is not None:
            self.force_close()  # nothing is left to wait for
        elif content.is_eof():
            self._content = None
            self._loop.call_soon(self._parse)

    def check(self, transport: asyncio.Transport, now: float) -> None:
        """Called by the sweep: is one of the limits of time over? `transport` is told, because
        aiohttp lets go of it while it may still have bytes to send."""
        if self._progress.is_stalled(bytes_given(self), transport.get_write_buffer_size(), now):
            transport.abort()
        elif self._head_since is not None and now - self._head_since > HEAD_S:
            self.force_close()
        elif self.body is not None and now - self.heard_at > BODY_S:
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
        """Without data it is aiohttp's own call: a body that was too much may be read on."""
        if self._refused:
            return
        if data:
            self.heard_at = self._loop.time()
            self._ahead = self._ahead + data if self._ahead else data
        else:
            self._give(b"")
        self._parse()
        if len(self._ahead) > MAX_AHEAD_BYTES and self._must_wait:
            self.force_close()

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
        self._parse()

    # One request after the other

    @property
    def _must_wait(self) -> bool:
        """Whether what has come belongs to a later request, or no answer could be taken now."""
        return self.writing_paused if self._content is None else self._content.is_eof()

    def _parse(self) -> None:
        """Give aiohttp what has come, as far as the end of one request."""
        data, at = self._ahead, 0
        while at < len(data) and not (self._must_wait or self._reading_paused or self._refused):
            if self._content is None and self._head_since is None:
                self._head_since = self._loop.time()
            if self._missing:
                piece = data[at : at + self._missing]
                self._missing -= len(piece)
            else:
                piece = self._to_blank(data, at)
            at += len(piece)
            self._given = piece[-3:]
            self._give(piece)
        self._ahead = b"" if self._refused else data[at:]

    def _to_blank(self, data: bytes, at: int) -> bytes:
        """As far as the next blank line: there a head ends, and a body in chunks too."""
        seam = (self._given + data[at : at + 3]).find(BLANK_LINE)
        if seam >= 0:
            return data[at : at + seam + len(BLANK_LINE) - len(self._given)]
        end = data.find(BLANK_LINE, at)
        return data[at : end + len(BLANK_LINE)] if end >= 0 else data[at:]

    def _give(self, piece: bytes) -> None:
        super().data_received(piece)
        if not self._messages:
            return
        message, content = self._messages[-1]
        if self._content is None:
            self._begin(message, content)
        elif self._content is not content:
            # The framing of the body is broken. aiohttp tells it behind the request, which waits.
            self._messages.pop()
            self._refused = True
            self._content.set_exception(RequestPayloadError("broken framing"))

    def _begin(self, message: object, content: StreamReader) -> None:
        """A head is whole, or none: then `message` says what is wrong."""
        self._head_since = None
        self._content = content
        self._missing = 0
        if not isinstance(message, RawRequestMessage):
            self._refused = True
        elif not message.chunked:
            self._missing = int(message.headers.get("Content-Length", 0))

    # What aiohttp asks for

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
