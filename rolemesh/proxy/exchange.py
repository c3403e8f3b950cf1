"""One request to one backend and its answer, relayed without a task or a queue per chunk.

Made by `pool` on a connection, driven by that connection's bytes: `feed` runs inside the event
loop's read callback and writes straight to the client's transport. The conductor awaits only two
futures: `opened` (head and first body byte are here) and that of `relay` (the answer has ended).

Rules that hold here:
- Until `relay` nothing reaches the client, so another backend may still be tried.
- The answer is parsed strictly (`answer`), and framed anew by the downstream.
- Of an event stream only whole events are passed on (wire/sse). Behind its `[DONE]` nothing counts
  any more, not even how the connection ends.
- A client that does not read pauses the backend's reading: at most one read is held for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Downstream, Straight, Timeouts
from rolemesh.proxy.answer import Answer
from rolemesh.wire.sse import EventSplitter, ends_in_error, whole_chunk
from rolemesh.wire.usage import WINDOW_BYTES, Usage, read_usage

if TYPE_CHECKING:
    from rolemesh.proxy.connection import Connection

MAX_HELD_BYTES = 65_536


class Broken(Exception):
    """An attempt came to nothing. `detail`: a few words for operators and the caller's eyes.
    `received`: bytes of an answer that had come."""

    def __init__(self, failure: Failure, reason: Reason, detail: str, received: int = 0) -> None:
        super().__init__(detail)
        self.failure = failure
        self.reason = reason
        self.detail = detail
        self.received = received


class Exchange:
    """`answer` has its head once `opened` is done; `first_byte_at` (loop time) is set by then.

    A stream's events come and go by the thousand, and each but a few as one chunk: those take the
    short way (`_straight`), which is open between two chunks that are between two events.
    """

    __slots__ = (
        "_began_at", "_broken", "_connection", "_downstream", "_first", "_heard", "_heard_at",
        "_loop", "_needs_done", "_paused", "_received", "_relayed", "_short_way", "_splitter",
        "_straight", "_tail", "_timeouts", "answer", "first_byte_at", "opened", "straight_body",
        "straight_bytes",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, timeouts: Timeouts, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connection: Connection | None = connection
        self._timeouts = timeouts
        self._loop = loop
        self._began_at = self._heard_at = loop.time()
        self._heard = False  # since the last look at the clock, which is the sweep's
        self._received = 0
        self._paused = False
        self._broken: Broken | None = None
        self._downstream: Downstream | None = None
        self._splitter: EventSplitter | None = None
        self._needs_done = False
        self._relayed: asyncio.Future[None] | None = None
        self._first = b""
        # Where a stream tells its usage: the last event but one or two.
        self._tail: tuple[bytes, bytes, bytes] | None = None
        self._short_way: Straight | None = None
        self._straight: Straight | None = None
        self.straight_bytes = self.straight_body = 0
        self.answer = Answer()
        self.first_byte_at: float | None = None
        self.opened: asyncio.Future[None] = loop.create_future()

    # What the conductor calls

    def relay(
        self,
        downstream: Downstream,
        fields: bytes,
        splitter: EventSplitter | None,
        needs_done: bool,
    ) -> asyncio.Future[None] | None:
        """Write head and body to the client until the answer ends: then the future is done, or it
        raises Broken. None: it is whole already. Raises Broken at once, and has written nothing, if
        it is too late.

        `splitter` for an event stream; `needs_done`: it has to end with `data: [DONE]`.
        """
        if self._broken is not None:
            raise self._broken
        answer = self.answer
        if answer.complete and answer.length is not None and splitter is None:
            self._first = body = answer.take()
            downstream.answer(answer.head.status, fields, body)
            return None
        ended = self._relayed = self._loop.create_future()
        self._splitter = splitter
        self._needs_done = needs_done
        self._downstream = downstream
        length = None if splitter is not None else answer.length
        downstream.start(answer.head.status, fields, length)
        if self._paused:  # what is held was too much already
            self.resume()
        self._short_way = downstream.connect(self)
        self._pass_on()
        return ended

    def close(self) -> None:
        """Let go. Unless the answer is whole, the connection is closed at once, so that the backend
        stops working on it. May be called at any time, and again."""
        connection, self._connection = self._connection, None
        if self._downstream is not None:
            self._leave_downstream()
        if connection is not None:
            connection.abort()

    def let_go(self) -> None:
        """Part with what was raised: its traceback holds the frames of those who waited, these hold
        the exchange and the prompt, and all of that would stay for the collector of cycles. Nothing
        but `usage` may be asked for afterwards."""
        self.answer.let_go()
        self._broken = self._relayed = None
        del self.opened

    def usage(self) -> Usage:
        """Tokens, as far as the backend told them."""
        tail = b"".join(self._tail) if self._tail else self._first
        return read_usage(self._first, tail)

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
        self._heard = True
        straight, tail = self._straight, self._tail
        if straight is not None and tail is not None:
            framed = bytes(data)
            at = whole_chunk(framed)
            if at:
                size = len(framed)
                self.straight_bytes += size
                self.straight_body += size - at - 2
                self._tail = tail[1], tail[2], framed
                straight(framed)
                return
            self._straight = None
        answer = self.answer
        self._received += len(data)
        answer.feed(data)
        # With extra bytes behind an answer that the client already has some of, it gets the rest;
        # the connection is not used again.
        if answer.flaw is not None and not (answer.complete and self._downstream is not None):
            self._break(Failure.BAD_ANSWER, Reason.BAD_ANSWER, answer.flaw)
        elif self._downstream is not None:
            self._pass_on()
        elif answer.has_head and (answer.parts or answer.complete):
            self._open()

    def lost(self, *, orderly: bool) -> None:
        """The connection has ended. `orderly`: the backend closed it, nothing broke."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if orderly and self.answer.end():
            if self._downstream is not None:
                self._pass_on()
            else:
                self._open()
        elif not self.answer.has_head:
            self._lose(Failure.LOST_BEFORE_HEAD, "the connection was lost before the answer")
        elif self._downstream is None:
            self._lose(Failure.LOST_BEFORE_BODY, "the connection was lost before the body")
        else:
            self._lose(Failure.CUT, "the connection was lost in mid-answer")

    def check(self, now: float) -> None:
        """Called by the sweep: has the backend been silent for too long? A head byte by byte, or
        interim answers, are no answer yet."""
        if self._heard:
            self._heard = False
            self._heard_at = now
        if self._paused or self.answer.complete:
            return
        if not self.answer.has_head:
            if now - self._began_at > self._timeouts.first_byte_s:
                detail = f"no first byte within {self._timeouts.first_byte_s:g} s"
                self._break(Failure.FIRST_BYTE_TIMEOUT, Reason.FIRST_BYTE_TIMEOUT, detail)
        elif now - self._heard_at > self._timeouts.idle_s:
            detail = f"silent for {self._timeouts.idle_s:g} s"
            self._break(Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT, detail)

    # Inside

    def _open(self) -> None:
        if not self.opened.done():
            self.first_byte_at = self._loop.time()
            self.opened.set_result(None)
        if self.answer.complete:
            self._give_back()
        elif not self._paused and sum(map(len, self.answer.parts)) > MAX_HELD_BYTES:
            self.pause()

    def _pass_on(self) -> None:
        downstream, splitter = self._downstream, self._splitter
        if downstream is None:
            return
        data = self.answer.take()
        if splitter is not None:
            data = splitter.feed(data)
        self._write(downstream, data)
        if self.answer.complete:
            if splitter is not None:
                self._write(downstream, splitter.flush())
            self._give_back()
            self._end(downstream)
        elif self.answer.between_chunks and splitter is not None and splitter.between_events:
            self._straight = self._short_way

    def _write(self, downstream: Downstream, data: bytes) -> None:
        if data:
            downstream.write(data)
            tail = self._tail
            if tail is None:
                self._first = data[:WINDOW_BYTES]
                tail = (b"", b"", b"")
            self._tail = tail[1], tail[2], data[-WINDOW_BYTES:]

    def _leave_downstream(self) -> None:
        if self._downstream is not None:
            self._downstream.connect(None)
            self._downstream = self._short_way = self._straight = None

    def _end(self, downstream: Downstream) -> None:
        self._leave_downstream()
        if self._relayed is None or self._relayed.done():
            return
        splitter = self._splitter
        if splitter is not None and not splitter.is_whole(needs_done=self._needs_done):
            detail = "the stream ended too early"
            self._look_for_error()
            _fail(self._relayed, Broken(Failure.CUT, Reason.CONNECTION_LOST, detail))
        else:
            downstream.end()
            self._relayed.set_result(None)

    def _look_for_error(self) -> None:
        """Has the backend itself told the client what went wrong?"""
        if self._splitter is not None and self._tail is not None:
            self._splitter.error_told = ends_in_error(b"".join(self._tail))

    def _give_back(self) -> None:
        """The answer is whole: the connection may serve the next request, if it is in order."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finished(self.answer)

    def _lose(self, failure: Failure, detail: str) -> None:
        self._break(failure, Reason.CONNECTION_LOST, detail)

    def _break(self, failure: Failure, reason: Reason, detail: str) -> None:
        downstream, splitter = self._downstream, self._splitter
        broken = self._broken = Broken(failure, reason, detail, self._received)
        self.close()
        if downstream is not None and splitter is not None and splitter.done:
            self._end(downstream)  # the client has it all; an error would only take that back
            return
        self._look_for_error()
        for future in (self.opened, self._relayed):
            if future is not None and not future.done():
                _fail(future, broken)


def _fail(future: asyncio.Future[None], broken: Broken) -> None:
    future.set_exception(broken)
    future.exception()  # nobody may be waiting any more, and that is no fault
