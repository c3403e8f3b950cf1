"""One request to one backend and its answer, relayed without a task or a queue per chunk.

Made by `pool` on a connection, driven by that connection's bytes: `feed` runs inside the event
loop's read callback and writes straight to the client's transport. The conductor awaits only two
futures: `opened` (head and first body byte are here) and `relay` (the answer has ended).

Rules that hold here:
- The answer's framing is checked strictly and made anew by the downstream. What httptools lets
  pass and RFC 9112 does not (odd transfer codings, other versions, a second answer) is refused.
- Until `relay` nothing reaches the client, so another backend may still be tried.
- Of an event stream only whole events are passed on (wire/sse).
- A client that does not read pauses the backend's reading: at most one read is held for it.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import httptools

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Downstream, Timeouts
from rolemesh.wire.sse import EventSplitter
from rolemesh.wire.usage import Usage, read_usage

if TYPE_CHECKING:
    from rolemesh.proxy.connection import Connection

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 256
MAX_INTERIM = 32  # 1xx heads before the answer (RFC 9110 section 15.2)
MAX_HELD_BYTES = 65_536
_TAIL_PIECES = 4  # where a stream tells its usage: the last event but one or two

Headers = Sequence[tuple[bytes, bytes]]


class Broken(Exception):
    """An attempt came to nothing. `detail`: a few words for operators and the caller's eyes.
    `received`: bytes of an answer that had come."""

    def __init__(self, failure: Failure, reason: Reason, detail: str, received: int = 0) -> None:
        super().__init__(detail)
        self.received = received
        self.failure = failure
        self.reason = reason
        self.detail = detail


class _Framing(enum.Enum):
    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "until the connection closes"


class Exchange:
    """`status`, `headers` and `length` are known once `opened` is done."""

    __slots__ = (
        "_began_at",
        "_broken",
        "_complete",
        "_connection",
        "_downstream",
        "_first",
        "_framing",
        "_has_head",
        "_head_bytes",
        "_heard_at",
        "_interim",
        "_keep_alive",
        "_loop",
        "_needs_done",
        "_odd",
        "_parser",
        "_parts",
        "_paused",
        "_relayed",
        "_skipping",
        "_splitter",
        "_tail",
        "_timeouts",
        "body_bytes",
        "content_type",
        "first_byte_at",
        "headers",
        "length",
        "opened",
        "received",
        "status",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, timeouts: Timeouts, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connection: Connection | None = connection
        self._timeouts = timeouts
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._has_head = self._complete = self._keep_alive = self._skipping = self._paused = False
        self._odd: str | None = None
        self._broken: Broken | None = None
        self._framing = _Framing.LENGTH
        self._head_bytes = self._interim = 0
        self._began_at = self._heard_at = loop.time()
        self._downstream: Downstream | None = None
        self._splitter: EventSplitter | None = None
        self._needs_done = False
        self._relayed: asyncio.Future[None] | None = None
        self._first = b""
        self._tail: deque[bytes] = deque(maxlen=_TAIL_PIECES)
        self.opened: asyncio.Future[None] = loop.create_future()
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None
        self.content_type = b""
        self.received = 0
        self.body_bytes = 0
        self.first_byte_at: float | None = None

    # What the conductor calls

    async def relay(
        self,
        downstream: Downstream,
        headers: Iterable[tuple[bytes, bytes]],
        splitter: EventSplitter | None,
        needs_done: bool,
    ) -> None:
        """Write head and body to the client until the answer ends. Raises Broken.

        `splitter` for an event stream; `needs_done`: it has to end with `data: [DONE]`.
        """
        if self._broken is not None:
            raise self._broken
        self._relayed = self._loop.create_future()
        self._splitter = splitter
        self._needs_done = needs_done
        self._downstream = downstream
        downstream.start(self.status, headers, None if splitter is not None else self.length)
        downstream.connect(self)
        if self._paused and self._connection is not None:
            self.resume()
        self._pass_on()
        try:
            await self._relayed
        finally:
            downstream.connect(None)

    def close(self) -> None:
        """Let go. Unless the answer is whole, the connection is closed at once, so that the backend
        stops working on it. May be called at any time, and again."""
        connection, self._connection = self._connection, None
        self._downstream = None
        if connection is not None:
            connection.abort()

    def usage(self) -> Usage | None:
        """Tokens as the backend told them, if it did."""
        return read_usage(self._first, b"".join(self._tail))

    # Flow: the client's buffer is full, or has room again

    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        self._paused = False
        self._heard_at = self._loop.time()  # the silence was ours
        if self._connection is not None:
            self._connection.resume_reading()

    # What the connection calls

    def feed(self, data: memoryview) -> None:
        """Bytes of the answer have come. `data` is only valid during the call."""
        self._heard_at = self._loop.time()
        size = len(data)
        self.received += size
        if not self._has_head:
            self._head_bytes += size
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._odd = self._odd or "its framing is not proper HTTP"
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            self._odd = self._odd or "its head is too large"
        if self._odd is not None and not self._extra_bytes_only():
            self._break(Failure.BAD_ANSWER, Reason.BAD_ANSWER, self._odd)
        elif self._downstream is not None:
            self._pass_on()
        elif self._has_head and (self._parts or self._complete):
            self._open()

    def lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._has_head and self._framing is _Framing.CLOSE and error is None:
            self._complete = True
            if self._downstream is not None:
                self._pass_on()
            else:
                self._open()
            return
        if not self._has_head:
            failure, detail = Failure.LOST_BEFORE_HEAD, "the connection was lost before the answer"
        elif self._downstream is None:
            failure, detail = Failure.LOST_BEFORE_BODY, "the connection was lost before the body"
        else:
            failure, detail = Failure.CUT, "the connection was lost in mid-answer"
        self._break(failure, Reason.CONNECTION_LOST, detail)

    def check(self, now: float) -> None:
        """Called by the sweep: has the backend been silent for too long? A head byte by byte, or
        interim answers, are no answer yet."""
        if self._paused or self._complete:
            return
        if not self._has_head:
            if now - self._began_at > self._timeouts.first_byte_s:
                detail = f"no first byte within {self._timeouts.first_byte_s:g} s"
                self._break(Failure.FIRST_BYTE_TIMEOUT, Reason.FIRST_BYTE_TIMEOUT, detail)
        elif now - self._heard_at > self._timeouts.idle_s:
            detail = f"silent for {self._timeouts.idle_s:g} s"
            self._break(Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT, detail)

    # What the parser calls, inside feed

    def on_message_begin(self) -> None:
        if self._complete:
            self._odd = "more bytes came behind its end"

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # a trailer field
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            self._odd = "its head has too many fields"

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            self._odd = "it speaks another version of HTTP"
        elif status < 200:
            self._interim += 1
            if status == 101 or status < 100 or self._interim > MAX_INTERIM:
                self._odd = "it sent a 1xx that was not asked for"
            self._skipping = True
            self.headers.clear()
        else:
            self.status = status
            self._read_framing()
            self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._skipping:
            self._skipping = False
        else:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()  # only known in here

    # Inside

    def _read_framing(self) -> None:
        """RFC 9112 section 6.3, less what no model server needs. httptools has already refused a
        length beside a transfer coding."""
        self._framing = _Framing.CLOSE
        codings = lengths = 0
        for name, value in self.headers:
            match name.lower():
                case b"transfer-encoding":
                    codings += 1
                    self._framing = _Framing.CHUNKED
                    if value.strip().lower() != b"chunked":
                        self._odd = "its transfer coding is not plain chunked"
                case b"content-length":
                    lengths += 1
                    self._framing = _Framing.LENGTH
                    if not value.isdigit():
                        self._odd = "its length is not a number"
                        return
                    self.length = int(value)
                case b"content-type":
                    self.content_type = value.split(b";", 1)[0].strip().lower()
                case b"content-encoding":
                    # An encoded body cannot be taken for events.
                    if value.strip().lower() not in (b"", b"identity"):
                        self.content_type = b"encoded"
                case b"keep-alive":
                    if self._connection is not None:
                        self._connection.told_keep_alive(value)
        if self.content_type == b"encoded":
            self.content_type = b""
        if codings + lengths > 1:
            self._odd = "its framing is ambiguous"
        if self.status in (204, 304):
            self._framing, self.length = _Framing.LENGTH, 0

    def _extra_bytes_only(self) -> bool:
        """The answer itself was whole, and the client already has some of it: it gets the rest, and
        the connection is not used again."""
        return self._complete and self._downstream is not None

    def _open(self) -> None:
        self.first_byte_at = self._heard_at
        if not self.opened.done():
            self.opened.set_result(None)
        if self._complete:
            self._give_back()
        elif not self._paused and sum(map(len, self._parts)) > MAX_HELD_BYTES:
            self.pause()

    def _pass_on(self) -> None:
        downstream, splitter = self._downstream, self._splitter
        if downstream is None:
            return
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            if splitter is not None:
                data = splitter.feed(data)
            self._write(downstream, data)
        if self._complete:
            if splitter is not None:
                self._write(downstream, splitter.flush(needs_done=self._needs_done))
            self._give_back()
            self._end(downstream)

    def _write(self, downstream: Downstream, data: bytes) -> None:
        if data:
            downstream.write(data)
            self.body_bytes += len(data)
            if not self._first:
                self._first = data
            self._tail.append(data)

    def _end(self, downstream: Downstream) -> None:
        self._downstream = None
        splitter = self._splitter
        if self._relayed is None or self._relayed.done():
            return
        if self._needs_done and splitter is not None and not splitter.done:
            detail = "the stream ended before its end mark"
            self._relayed.set_exception(Broken(Failure.CUT, Reason.CONNECTION_LOST, detail))
            return
        downstream.end()
        self._relayed.set_result(None)

    def _give_back(self) -> None:
        """The answer is whole: the connection may serve the next request, if it is in order."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        reusable = self._odd is None and self._framing is not _Framing.CLOSE and self._keep_alive
        connection.finished(reusable)

    def _break(self, failure: Failure, reason: Reason, detail: str) -> None:
        broken = self._broken = Broken(failure, reason, detail, self.received)
        self.close()
        for future in (self.opened, self._relayed):
            if future is not None and not future.done():
                future.set_exception(broken)
                future.exception()  # nobody may be waiting any more; that is no fault
