"""A backend's answer taken as a whole: for the node's own questions, and for errors that have to be
told in a stream. Requests of clients are relayed instead."""

from __future__ import annotations

import asyncio

from rolemesh.core.types import Flow
from rolemesh.proxy.exchange import Exchange


class Whole:
    """core.types.Downstream that keeps the body, and no more than `max_bytes` of it: then `full` is
    done."""

    started = False
    gone = False

    def __init__(self, max_bytes: int) -> None:
        self.full: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = max_bytes
        self._parts: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    def connect(self, flow: Flow | None) -> None:
        """There is always room: what is too much is dropped."""

    def start(self, status: int, fields: bytes, length: int | None) -> None:
        self.started = True

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        self.started = True
        self.write(body)

    def write(self, data: bytes) -> None:
        kept = data[: self._left]
        self._left -= len(kept)
        self._parts.append(kept)
        if len(kept) < len(data) and not self.full.done():
            self.full.set_result(None)

    def end(self) -> None:
        """Nothing is left to do."""

    def cut(self) -> None:
        """The exchange raises."""


async def whole_body(exchange: Exchange, max_bytes: int) -> bytes:
    """Waits for the end of the answer, or of the room for it. Raises Broken."""
    whole = Whole(max_bytes)
    ended = exchange.relay(whole, b"", None, needs_done=False)
    try:
        if ended is not None:
            await asyncio.wait((ended, whole.full), return_when=asyncio.FIRST_COMPLETED)
            if not whole.full.done():
                await ended
    finally:
        del ended  # it holds what it raised, and that this frame
    return whole.body
