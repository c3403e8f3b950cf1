"""A stream of the child's, collected for a client that wants one answer.

Called by the node's forward with an exchange whose answer is an event stream (`wire/streamable`
asked for it; anything else that a child answers passes through as it is). Nothing reaches the
client before the answer is whole, so until then another backend may serve the request. A client's
leaving cancels whoever waits here; closing the exchange then frees the child's slot.

What is decided is told, however the child goes on. Its stream may end in order just behind that,
and for so long (`END_S`) it is waited for, because the connection can then be used again.
"""

from __future__ import annotations

import asyncio

from rolemesh.core.types import Flow
from rolemesh.proxy.exchange import Exchange
from rolemesh.wire.assemble import Assembled, Assembler
from rolemesh.wire.sse import EventSplitter

CONTENT_TYPE = b"application/json; charset=utf-8"  # as llama-server writes it
END_S = 0.2


async def collect(exchange: Exchange, path: str) -> Assembled:
    """Wait for the answer. Raises Broken when the child is lost before it is decided, and
    UpstreamError when what it sent is none, or it ended the stream in order, but too early."""
    decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    collector = Collector(path, decided)
    # Whether it is whole the assembler knows best: an error event ends a stream without `[DONE]`.
    ended = exchange.relay(collector, b"", EventSplitter(), needs_done=False)
    try:
        if ended is not None:
            await asyncio.wait((ended, decided), return_when=asyncio.FIRST_COMPLETED)
            if not decided.done():
                await ended
            elif not ended.done():
                await asyncio.wait((ended,), timeout=END_S)
    finally:
        del ended  # it holds what it raised, and that this frame
    return collector.whole()


class Collector:
    """core.types.Downstream that keeps what is written to it. It never makes the child wait."""

    __slots__ = ("_assembler", "_decided", "started")

    def __init__(self, path: str, decided: asyncio.Future[None]) -> None:
        self._assembler = Assembler(path)
        self._decided = decided
        self.started = False

    @property
    def gone(self) -> bool:
        return False

    def whole(self) -> Assembled:
        """Raises UpstreamError when there is no whole answer."""
        return self._assembler.whole()

    def connect(self, flow: Flow | None) -> None:
        pass

    def start(self, status: int, fields: bytes, length: int | None) -> None:
        self.started = True

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        self.start(status, fields, len(body))
        self.write(body)

    def write(self, data: bytes) -> None:
        self._assembler.feed(data)
        if self._assembler.is_decided and not self._decided.done():
            self._decided.set_result(None)

    def end(self) -> None:
        pass

    def cut(self) -> None:
        pass
