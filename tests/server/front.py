"""A server on loopback in the test's own event loop, and a client of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from attrs import frozen

from rolemesh.server.http import HttpServer
from rolemesh.server.inbound import Inbound
from rolemesh.server.router import Handler, Router

LANE = "/v1/chat/completions"  # served by the fast lane where its shape is ordinary


@frozen
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        inner: dict[str, Any] = json.loads(self.body)["error"]
        return inner


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(
        self, method: str = "GET", path: str = "/", body: bytes | None = None, fields: str = ""
    ) -> None:
        if body is not None:
            fields += f"Content-Length: {len(body)}\r\n"
        self.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode() + (body or b""))

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        fields = (line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), {name.lower(): value for name, value in fields}

    async def reply(self, *, head_only: bool = False) -> Reply:
        status, headers = await self.head()
        if head_only:
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, await self.chunks())
        return Reply(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def chunks(self) -> bytes:
        """Raises IncompleteReadError when they break off."""
        body = b""
        while size := int((await self.reader.readuntil(b"\r\n"))[:-2], 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body

    async def rest(self) -> bytes:
        """All that comes until the connection ends; a reset ends it too."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""

    def leave(self) -> None:
        self.writer.transport.abort()


class Front:
    """`ended`: every request that has come to its end."""

    def __init__(self) -> None:
        self.router = Router()
        self.ended: list[Inbound] = []
        self.server = HttpServer(
            self.router, "X-Request-ID", self.ended.append, (LANE,), lambda line: None
        )
        self.port = 0

    def on(self, method: str, path: str, handler: Handler) -> None:
        self.router.add(method, path, handler)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(10.0):  # nothing here may hang
                yield Client(reader, writer)
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Front]:
    front = Front()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(front.server.new_connection, "127.0.0.1", 0)
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        await front.server.close()
