"""A client's connection: aiohttp's request handler, with what it lacks.

aiohttp parses requests and keeps connections alive; `ClientConnection` adds limits of time (one
sweep for all, no timers), flow control for a relay, and errors in our shape. `connections` makes
them and sweeps. A client that leaves cancels the task that serves it (handler_cancellation).

Of what a client sends ahead (pipelining), aiohttp's parser is given one request at a time
(wire/pieces), when the one before it has been answered. Left to itself it parses all that has come,
and of what is no request it tells first. What waits is bytes, and bounded (MAX_AHEAD_BYTES):
reading is not paused for it, because a client's leaving would go unseen then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from aiohttp import http_exceptions, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from rolemesh.core.types import Flow
from rolemesh.errors import HeadersTooLarge, RequestError
from rolemesh.server.downstream import bytes_given
from rolemesh.server.progress import Progress
from rolemesh.wire.http1 import length_told
from rolemesh.wire.pieces import Pieces

if TYPE_CHECKING:
    from rolemesh.server.connections import ClientConnections

HEAD_S = 15.0
BODY_S = 30.0
KEEP_ALIVE_S = 75.0
LINGER_S = 2.0
EOF_S = 0.02
WRITE_BUFFER_BYTES = 65_536
MAX_AHEAD_BYTES = 65_536
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
    """`flow`: the relay that is told of back-pressure. `written`: bytes given to the transport,
    less those that the relay counts."""

    __slots__ = (
        "_ahead", "_content", "_head_since", "_lingers", "_progress", "_refused", "body", "flow",
        "heard_at", "written",
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
        self._ahead = Pieces()  # what the parser has not been given
        self._content: StreamReader | None = None  # of the request that is being served
        self._lingers = False  # the answer has been written, and its request is still coming
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
        if content is None or self._refused:
            self._content = None
            self.force_close()  # nothing is left to wait for
        elif content.is_eof():
            self._content = None
            self._loop.call_soon(self._parse)
        else:
            self._lingers = True

    def check(self, transport: asyncio.Transport, now: float) -> None:
        """Called by the sweep: is one of the limits of time over? `transport` is told, because
        aiohttp lets go of it while it may still have bytes to send."""
        if self._progress.is_stalled(bytes_given(self), transport.get_write_buffer_size(), now):
            transport.abort()
        elif self._head_since is not None and now - self._head_since > HEAD_S:
            self.force_close()
        elif self.body is not None and now - self.heard_at > BODY_S:
            self._break_body(TimeoutError())

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
        self._content = None  # the two hold each other
        self._ahead.clear()

    def eof_received(self) -> bool:  # type: ignore[override]
        waits = self.flow is None and (self.busy or len(self._ahead) > 0)
        return waits and hears_on(self.transport, self._loop)

    def data_received(self, data: bytes) -> None:
        """Without data it is aiohttp's own call: a body that was too much may be read on."""
        if self._refused:
            return
        if data:
            self.heard_at = self._loop.time()
            self._ahead.add(data)
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
        while self._ahead and not (self._must_wait or self._reading_paused or self._refused):
            if self._content is None and self._head_since is None:
                self._head_since = self._loop.time()
            piece = self._ahead.take()
            if piece:
                self._give(piece)
            if self._ahead.broken:
                self._break_body(RequestPayloadError("broken framing"))
        if self._refused:
            self._ahead.clear()

    def _give(self, piece: bytes) -> None:
        """Of what has come of the parser, the first is the request; there is more only where its
        framing is broken."""
        known = len(self._messages)
        self._have_parsed(piece)
        if self._content is None and len(self._messages) > known:
            self._begin(*self._messages[known])
            known += 1
        if len(self._messages) > known:
            while len(self._messages) > known:
                _forget_frames(self._messages.pop()[0])
            self._break_body(RequestPayloadError("broken framing"))

    def _have_parsed(self, piece: bytes) -> None:
        try:
            super().data_received(piece)
            if self._is_held_up:
                super().data_received(b"")
        except Exception:  # noqa: BLE001 - yarl's, of a target that the parser did not expect
            super().data_received(b"\0")  # it will not go on, and says so

    @property
    def _is_held_up(self) -> bool:
        """The end of a body has paused the parser, and nobody will resume it for the next one."""
        if self._content is None or self._ahead.in_body or self._reading_paused:
            return False
        return not self._content.is_eof()

    def _begin(self, message: object, content: StreamReader) -> None:
        """A head is whole, or none: then `message` says what is wrong."""
        self._head_since = None
        self._content = content
        if not isinstance(message, RawRequestMessage):
            self._refused = True
            return
        length = length_told(message.headers.get("Content-Length", "0"))
        if not content.is_eof():
            self._ahead.begin_body(None if message.chunked else length)
        elif length and message.method != "CONNECT":
            self._refused = True  # it takes 2**64 - 1 for none, and waits for them all the same

    def _break_body(self, error: Exception) -> None:
        """What has not come of it will not be waited for, nor anything behind it."""
        self._refused = True
        content = self._content
        if content is None or content.is_eof():
            return
        if self._lingers:
            content.feed_eof()  # aiohttp, which reads it to throw it away, takes it for the end
        else:
            content.set_exception(error)
            # Once more for a reader that was woken by the last chunk's end: it will wait again.
            self._loop.call_soon(content.set_exception, error)

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
        _forget_frames(err_info)
        serve = cast("ClientConnections", self._manager).refuse

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return await serve(request, error)

        return handler


def hears_on(transport: asyncio.Transport | None, loop: asyncio.AbstractEventLoop) -> bool:
    """For `eof_received` of a connection on which something waits for an answer that has not begun.
    A client that has left looks the same as one that has only said all it has to say (`nc -N`): it
    gets what is ready within EOF_S. TLS knows no half of a connection."""
    if transport is None or transport.get_extra_info("sslcontext") is not None:
        return False
    loop.call_later(EOF_S, transport.close)
    return True


def _forget_frames(message: object) -> None:
    """Of an error: one of them, of aiohttp, holds what was raised, and what had come with it."""
    raised: BaseException | None = getattr(message, "exc", None)
    if raised is not None:
        raised.__traceback__ = None


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
