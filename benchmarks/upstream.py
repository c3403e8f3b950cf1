"""The model server behind every gateway: a process that answers as the request's script says.

A uvloop protocol that writes prepared bytes; `python -m benchmarks.upstream` prints its port and
serves until it is ended. Of each request it checks the length, the script and the end, and
refuses it if need be, so that a gateway that cuts requests is noticed as an error at the client.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import uvloop

from benchmarks.script import Script, expected, pieces, script_in

BACKLOG = 8192
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
_REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model"}]}'
# vllm-router asks a backend for a prompt's tokens before it chooses one, as vLLM gives them. They
# are as many as the prompt of 1 KiB has, whatever the prompt.
_RENDER = b"POST /v1/chat/completions/render "
_TOKENS = b'{"request_id":"bench","token_ids":[%b]}' % b",".join([b"1234"] * 200)
_LAST_CHUNK = b"0\r\n\r\n"

_prepared: dict[Script, list[bytes]] = {}


def writes(script: Script) -> list[bytes]:
    """What is written, one after the other: head and first event together."""
    made = _prepared.get(script)
    if made is None:
        made = _prepared[script] = _stream(script) if script.streams else [_whole(script)]
    return made


def _whole(script: Script) -> bytes:
    body = expected(script)
    return _JSON % (len(body), body)


def _stream(script: Script) -> list[bytes]:
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces(script)]
    first, *middle, done = chunks
    return [_EVENTS + first, *middle, done + _LAST_CHUNK]


class Upstream(asyncio.Protocol):
    """One connection; one request at a time, as HTTP/1.1 gateways send them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._received = bytearray()
        self._needed = 0  # bytes of the request that is being received; 0: its head is not whole
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._needed:
            head = self._received.find(b"\r\n\r\n") + 4
            if head < 4:
                return
            self._needed = head + self._body_length(head)
        if len(self._received) == self._needed:
            request = bytes(self._received)
            self._received.clear()
            self._needed = 0
            self._answer(request)
        elif len(self._received) > self._needed:
            self._refuse()

    def _body_length(self, head: int) -> int:
        found = _LENGTH.search(self._received, 0, head)
        return 0 if found is None else int(found[1])

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET "):
            self._transport.write(_JSON % (len(_MODELS), _MODELS))
            return
        if request.startswith(_RENDER):
            self._transport.write(_JSON % (len(_TOKENS), _TOKENS))
            return
        script = script_in(request)
        if script is None or not request.endswith(b"}"):
            self._refuse()
            return
        parts = writes(script)
        self._transport.write(parts[0])
        if len(parts) > 1:
            self._go_on(parts, 1, self._loop.time(), script.gap_ms / 1000)

    def _go_on(self, parts: list[bytes], index: int, began_at: float, gap_s: float) -> None:
        # By the clock, not by the last write: a late event does not make the next ones late.
        at = began_at + index * gap_s
        self._timer = self._loop.call_at(at, self._next, parts, index, began_at, gap_s)

    def _next(self, parts: list[bytes], index: int, began_at: float, gap_s: float) -> None:
        self._timer = None
        self._transport.write(parts[index])
        if index + 1 < len(parts):
            self._go_on(parts, index + 1, began_at, gap_s)

    def _refuse(self) -> None:
        self._transport.write(_REFUSED)
        self._transport.close()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(loop), "127.0.0.1", 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
