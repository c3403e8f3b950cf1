"""The downstream of a client's connection: heads and framing, straight to its transport.

Made for each request, whichever protocol received it; written to by the error writer, by handlers'
answers and by the proxy's exchanges. aiohttp's own response machinery is passed by.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Protocol

from rolemesh.core.types import Flow, Straight
from rolemesh.wire.http1 import LAST_CHUNK, answer_head, chunk

NO_BODY_STATUSES = frozenset({204, 304})


@lru_cache(maxsize=1)
def date_line(second: int) -> bytes:
    """RFC 9110 section 6.6.1: an answer has a Date, and ours is the one that left this host."""
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode()


class Connection(Protocol):
    """What a downstream needs of the protocol that serves the client's connection."""

    flow: Flow | None
    written: int

    @property
    def transport(self) -> asyncio.Transport | None: ...

    @property
    def writing_paused(self) -> bool: ...


def bytes_given(connection: Connection) -> int:
    """To its transport, so far."""
    flow = connection.flow
    return connection.written + (0 if flow is None else flow.straight_bytes)


class ConnectionDownstream:
    """core.types.Downstream over a client's connection.

    `keep_alive` may be cleared until `start`. `head_only`: the request was HEAD. `whole`: the
    answer has come to its end.
    """

    __slots__ = (
        "_chunked", "_connection", "_head", "_left", "_old_client", "body_bytes", "head_only",
        "keep_alive", "started", "status", "whole",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, *, keep_alive: bool, head_only: bool, old_client: bool
    ) -> None:
        self._connection = connection
        self._old_client = old_client  # HTTP/1.0: no chunks
        self._head = b""
        self._chunked = False
        self._left: int | None = None
        self.keep_alive = keep_alive
        self.head_only = head_only
        self.started = False
        self.whole = False
        self.status = 0
        self.body_bytes = 0

    @property
    def gone(self) -> bool:
        transport = self._connection.transport
        return transport is None or transport.is_closing()

    def connect(self, flow: Flow | None) -> Straight | None:
        connection = self._connection
        if connection.flow is not None:
            connection.written += connection.flow.straight_bytes
            self.body_bytes += connection.flow.straight_body
        connection.flow = flow
        if flow is None:
            return None
        if connection.writing_paused:
            flow.pause()
        transport = connection.transport
        has_chunks = self._chunked and not self.head_only
        return transport.write if has_chunks and transport is not None else None

    def start(self, status: int, fields: bytes, length: int | None) -> None:
        self.started = True
        self.status = status
        self._left = length
        if status in NO_BODY_STATUSES:
            framing, self.head_only = b"", True
        elif length is not None:
            framing = b"Content-Length: %d\r\n" % length
        elif self._old_client:
            framing, self.keep_alive = b"", False
        else:
            framing, self._chunked = b"Transfer-Encoding: chunked\r\n", True
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        elif self._old_client:
            framing += b"Connection: keep-alive\r\n"
        framing += date_line(int(time.time()))
        # Kept for the first bytes of the body, so that both leave in one packet.
        self._head = answer_head(status, fields, framing)

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        self.start(status, fields, len(body))
        self.whole = True
        if self.head_only:
            body = b""
        self.body_bytes = len(body)
        self._send(body)

    def write(self, data: bytes) -> None:
        if self.head_only or not data:
            return
        self.body_bytes += len(data)
        self._send(chunk(data) if self._chunked else data)

    def end(self) -> None:
        self.whole = True
        self._send(LAST_CHUNK if self._chunked and not self.head_only else b"")

    def cut(self) -> None:
        self.keep_alive = False
        transport = self._connection.transport
        if transport is None:
            return
        if self._left is None and not self._chunked:
            transport.abort()  # only a reset tells a client that this was not the end
        else:
            self._send(b"")
            transport.close()

    def _send(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        transport = self._connection.transport
        if data and transport is not None:
            self._connection.written += len(data)
            transport.write(data)
