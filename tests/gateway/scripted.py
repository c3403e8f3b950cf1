"""Backends that are a few bytes: pools that connect to nobody and answer what they were told."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import cast

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Backend, Timeouts
from rolemesh.proxy.connection import Connection
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.proxy.pool import Pools
from tests.proxy.recording import RecordedConnection

OK = b"HTTP/1.1 200 OK\r\n"
REFUSED = Broken(Failure.CONNECT, Reason.CONNECTION_REFUSED, "connection refused")


def answer(status: int = 200, body: bytes = b"{}", fields: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n" % (status, fields, len(body))
    return head + body


def stream(*events: bytes) -> bytes:
    """The beginning of an event stream; `end` ends it."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    fields = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return OK + fields + chunks


END = b"0\r\n\r\n"


class ScriptedPools:
    """`plays[label]`: for each request to that backend, what happens, in order: bytes of an answer,
    a Broken, a tuple of bytes after which the connection is lost, or None for silence."""

    def __init__(self) -> None:
        self.plays: defaultdict[str, list[bytes | Broken | tuple[bytes] | None]] = defaultdict(list)
        self.requests: list[tuple[str, bytes, bytes]] = []  # label, head, body
        self.open_exchanges: list[Exchange] = []
        self.connections: list[RecordedConnection] = []

    @property
    def asked(self) -> list[str]:
        return [label for label, _, _ in self.requests]

    def head(self, number: int = -1) -> list[str]:
        """The lines of a request's head."""
        return self.requests[number][1].decode().split("\r\n")[:-2]

    async def open(self, backend: Backend, request: list[bytes], timeouts: Timeouts) -> Exchange:
        self.requests.append((backend.label, request[0], b"".join(request[1:])))
        play = self.plays[backend.label].pop(0)
        if isinstance(play, Broken):
            raise play
        connection = RecordedConnection()
        self.connections.append(connection)
        exchange = Exchange(cast(Connection, connection), timeouts, asyncio.get_running_loop())
        self.open_exchanges.append(exchange)
        if play is not None:
            exchange.feed(memoryview(play if isinstance(play, bytes) else play[0]))
        if isinstance(play, tuple):
            exchange.lost(orderly=True)
        try:
            await exchange.opened
        except BaseException:
            self.release(exchange)
            raise
        return exchange

    def release(self, exchange: Exchange) -> None:
        self.open_exchanges.remove(exchange)
        exchange.close()

    def as_pools(self) -> Pools:
        return cast(Pools, self)
