"""The two sides of an exchange, recorded: a connection that carries nothing, a client that takes
everything, and a clock that a test moves."""

from __future__ import annotations

import asyncio
from typing import cast

from rolemesh.core.types import Flow, Straight, Timeouts
from rolemesh.proxy.answer import Answer
from rolemesh.proxy.connection import Connection
from rolemesh.proxy.exchange import Exchange
from rolemesh.wire.http1 import chunk
from rolemesh.wire.sse import EventSplitter

TIMEOUTS = Timeouts(connect_s=1.0, first_byte_s=10.0, idle_s=5.0)


class Clock:
    """What an exchange needs of an event loop. Futures are looked at, never waited for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._loop = asyncio.new_event_loop()
        self._loop.close()

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return self._loop.create_future()


class RecordedConnection:
    def __init__(self) -> None:
        self.paused = False
        self.aborted = False
        self.answer: Answer | None = None

    @property
    def kept(self) -> bool:
        return self.answer is not None and self.answer.reusable

    def finished(self, answer: Answer) -> None:
        self.answer = answer

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class RecordedDownstream:
    """`full`: the client has not taken what was written before."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.flow: Flow | None = None
        self.started = self.ended = self.was_cut = self.gone = False
        self.status = 0
        self.fields = b""
        self.length: int | None = None
        self.pieces: list[bytes] = []
        self.straight: list[bytes] = []  # what came the short way

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = (line.partition(b": ") for line in self.fields.split(b"\r\n")[:-1])
        return [(name, value) for name, _, value in lines]

    @property
    def written(self) -> bytes:
        return b"".join(self.pieces)

    def connect(self, flow: Flow | None) -> Straight | None:
        if self.flow is not None:
            assert self.flow.straight_bytes == sum(map(len, map(chunk, self.straight)))
            assert self.flow.straight_body == sum(map(len, self.straight))
        self.flow = flow
        if flow is not None and self.full:
            flow.pause()
        return None if flow is None else self.write_straight

    def start(self, status: int, fields: bytes, length: int | None) -> None:
        assert not self.started
        self.started = True
        self.status, self.fields, self.length = status, fields, length

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        self.start(status, fields, len(body))
        if body:
            self.write(body)
        self.end()

    def write_straight(self, framed: bytes) -> None:
        assert self.flow is not None
        assert self.pieces
        body = framed.partition(b"\r\n")[2][:-2]
        assert chunk(body) == framed
        self.straight.append(body)
        self.write(body)

    def write(self, data: bytes) -> None:
        assert self.started
        assert not self.ended
        self.pieces.append(data)

    def end(self) -> None:
        assert not self.ended
        self.ended = True

    def cut(self) -> None:
        self.was_cut = True


class Play:
    """One exchange between the two, and the future of its relay."""

    def __init__(self, *, full: bool = False) -> None:
        self.clock = Clock()
        self.connection = RecordedConnection()
        self.downstream = RecordedDownstream(full=full)
        self.exchange = Exchange(
            cast(Connection, self.connection),
            TIMEOUTS,
            cast(asyncio.AbstractEventLoop, self.clock),
        )
        self.relayed: asyncio.Future[None] | None = None

    def feed(self, *pieces: bytes) -> Play:
        for piece in pieces:
            self.exchange.feed(memoryview(piece))
        self.exchange.check(self.clock.now)  # the sweep comes by
        return self

    def relay(self, splitter: EventSplitter | None = None, *, needs_done: bool = False) -> Play:
        self.relayed = self.exchange.relay(self.downstream, b"A: b\r\n", splitter, needs_done)
        if self.relayed is None:
            self.relayed = self.clock.create_future()
            self.relayed.set_result(None)
        return self

    @property
    def opened(self) -> bool:
        """Raises Broken."""
        return self.exchange.opened.done() and self.exchange.opened.result() is None

    @property
    def ended(self) -> bool:
        """Raises Broken."""
        return self.relayed is not None and self.relayed.done() and self.relayed.result() is None
