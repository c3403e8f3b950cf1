"""Servers on loopback that do what a test's function says, one connection at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from rolemesh.core.types import Backend, Network
from rolemesh.wire.url import parse_url

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = [b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"]


class Peer:
    """The backend's end of a connection. `number`: the how-manieth of this server, from 0."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request's head. Raises IncompleteReadError when there is none."""
        return await self.reader.readuntil(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def reset(self) -> None:
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Until the gateway has closed it."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass


Behaviour = Callable[[Peer], Awaitable[None]]


class Listening:
    def __init__(self, port: int, scheme: str, host: str) -> None:
        self.port = port
        self.scheme = scheme
        self.host = host
        self.connections = 0
        self.requests = 0

    def backend(
        self,
        *,
        host: str | None = None,
        ca_file: str | None = None,
        networks: tuple[Network, ...] | None = None,
    ) -> Backend:
        url = parse_url(f"{self.scheme}://{host or self.host}:{self.port}")
        return Backend("label", "name", url, ca_file=ca_file, networks=networks)


@contextlib.asynccontextmanager
async def listening(
    behave: Behaviour | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Listening]:
    """By default it answers every request."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(there.connections, reader, writer)
        there.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await (behave or answering)(peer)
        finally:
            writer.close()

    async def answering(peer: Peer) -> None:
        while True:
            await peer.request()
            there.requests += 1
            peer.send(ANSWER)

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    there = Listening(port, "http" if tls is None else "https", host)
    try:
        yield there
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):  # both ends hear of it
            await asyncio.sleep(0)
