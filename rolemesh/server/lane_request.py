"""A request in the fast lane: its head is known, its body may still be on its way.

Made and fed by `lane`; read through server/request.Request like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache

from rolemesh.server.request import too_large
from rolemesh.wire.ordinary import OrdinaryHead


class LaneRequest:
    """server.request.Request of the ordinary shape. Its body may still be on its way: `missing`
    bytes of it; `late` when they have stopped coming."""

    __slots__ = (
        "_fields", "_length", "_parts", "_waiter", "kept", "late", "missing", "peer",
        "raw_headers", "raw_path", "target",
    )  # fmt: skip

    method = "POST"
    version = (1, 1)

    def __init__(self, head: OrdinaryHead, length: int, peer: str | None, body: bytes) -> None:
        self.raw_path = self.target = head.path
        self.raw_headers = head.raw_headers
        self.kept = head.kept
        self._fields = head.fields
        self._length = length
        self._parts = [body]
        self.missing = length - len(body)
        self._waiter: asyncio.Future[None] | None = None
        self.late = False
        self.peer = peer

    @property
    def has_unread_body(self) -> bool:
        return self.missing > 0

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for the rest of the body."""
        return self._waiter is not None

    def header(self, name: str) -> str | None:
        value = self._fields.get(_lower(name))
        return None if value is None else value.decode("ascii")

    def headers(self, name: str) -> Sequence[str]:
        value = self.header(name)
        return () if value is None else (value,)

    async def body(self, max_bytes: int) -> bytes:
        if self._length > max_bytes:
            raise too_large(max_bytes)
        if self.missing:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body; returns what comes behind it."""
        mine, rest = data[: self.missing], data[self.missing :]
        self.missing -= len(mine)
        self._parts.append(mine)
        if not self.missing and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return rest

    def forget_body(self) -> None:
        """Nobody will read it: what comes is not kept."""
        self._parts.clear()

    def fail(self, error: Exception) -> None:
        self.late = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


@lru_cache(maxsize=256)
def _lower(name: str) -> bytes:
    return name.lower().encode()
