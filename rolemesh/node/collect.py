"""A stream of the child's, collected for a client that wants one answer.

Called by the node's forward with an exchange whose answer is an event stream (`wire/streamable`
asked for it; anything else that a child answers passes through as it is). Nothing reaches the
client before the answer is whole, so until then another backend may serve the request. A client's
leaving cancels whoever waits here; closing the exchange then frees the child's slot.
"""

from __future__ import annotations

from rolemesh.core.types import Flow
from rolemesh.proxy.exchange import Exchange
from rolemesh.wire.assemble import Assembled, Assembler
from rolemesh.wire.sse import EventSplitter

CONTENT_TYPE = b"application/json; charset=utf-8"  # as llama-server writes it


async def collect(exchange: Exchange, path: str) -> Assembled:
    """Wait for the end of the stream. Raises Broken when the child is lost, and UpstreamError when
    it ended the stream in order, but too early."""
    collector = Collector(path)
    # Whether it is whole the assembler knows best: an error event ends a stream without `[DONE]`.
    ended = exchange.relay(collector, b"", EventSplitter(), needs_done=False)
    try:
        if ended is not None:
            await ended
    finally:
        del ended  # it holds what it raised, and that this frame
    return collector.whole()


class Collector:
    """core.types.Downstream that keeps what is written to it. It never makes the child wait."""

    __slots__ = ("_assembler", "started")

    def __init__(self, path: str) -> None:
        self._assembler = Assembler(path)
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

    def end(self) -> None:
        pass

    def cut(self) -> None:
        pass
