"""A client's connection in the soak: sends any bytes, reads at any pace, leaves as it likes.

Strict about what comes back: an answer is read by its framing, and whether it came to its end is
part of what is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from attrs import frozen

READ_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, and no time


@frozen
class Reply:
    """`whole`: it ended as its framing said."""

    status: int
    body: bytes
    whole: bool


class Wire:
    """`pause_s`: how long it rests after each read of `READ_BYTES` at most."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.pause_s = 0.0

    @classmethod
    async def open(cls, port: int, receive_bytes: int | None = None) -> Wire:
        """`receive_bytes`: of the kernel's buffer, so that a slow reader is noticed."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=connection, limit=READ_BYTES))
        except BaseException:
            connection.close()
            raise

    async def send(self, *parts: bytes, gap_s: float = 0.0) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            if gap_s:
                await asyncio.sleep(gap_s)

    async def ask(self, request: bytes) -> Reply:
        await self.send(request)
        return await self.reply()

    async def reply(self) -> Reply:
        """The next answer. Raises EOFError when there is no whole head."""
        status, headers = await self.head()
        parts: list[bytes] = []
        try:
            if headers.get("transfer-encoding") == "chunked":
                await self._chunks(parts)
            else:
                await self._exactly(int(headers["content-length"]), parts)
        except asyncio.IncompleteReadError as error:
            parts.append(error.partial)
            return Reply(status, b"".join(parts), whole=False)
        return Reply(status, b"".join(parts), whole=True)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Header names are in lower case."""
        text = (await self._reader.readuntil(b"\r\n\r\n")).decode("ascii")
        first, *lines = text[:-4].split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def some(self) -> bytes:
        """Whatever comes next; b"" at the end."""
        return await self._reader.read(READ_BYTES)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def reset(self) -> None:
        """Leave with an RST."""
        if not self._writer.transport.is_closing():
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()

    async def _chunks(self, parts: list[bytes]) -> None:
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            await self._exactly(size, parts)
            if await self._reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk does not end where it should")
            if not size:
                return

    async def _exactly(self, size: int, parts: list[bytes]) -> None:
        while size:
            part = await self._reader.readexactly(min(size, READ_BYTES))
            parts.append(part)
            size -= len(part)
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
