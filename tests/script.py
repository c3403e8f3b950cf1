"""What a fake backend can be told to do: small steps, played one after the other.

`backend.script(Answer.json({...}))`, `backend.script(Head(), Chunk(event("a")), Die())`: a script
is the steps for one request. `FakeBackend` plays them on an `Exchange`; a step writes bytes, waits,
or ends the connection. Nothing here knows sockets.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from typing import Any, Protocol

from attrs import frozen

DONE = b"data: [DONE]\n\n"


class Exchange(Protocol):
    """What a step may do to the connection that it is played on."""

    async def write(self, data: bytes) -> None: ...

    async def read_body(self, most: int | None = None) -> None: ...

    async def sleep(self, seconds: float | None) -> None:
        """Return after `seconds` (None: never); end the script when the gateway leaves."""

    def end(self, *, reset: bool = False) -> None:
        """End the connection. Raises, so that no further step is played."""


class Step(Protocol):
    async def play(self, exchange: Exchange) -> None: ...


class Gate:
    """Closed until the test opens it, from its own thread."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()


@frozen
class Send:
    """These bytes, as they are."""

    data: bytes

    async def play(self, exchange: Exchange) -> None:
        await exchange.write(self.data)


@frozen
class Slowly:
    """These bytes in pieces of `size`, `gap_s` apart."""

    data: bytes
    size: int = 1
    gap_s: float = 0.002

    async def play(self, exchange: Exchange) -> None:
        for start in range(0, len(self.data), self.size):
            await exchange.write(self.data[start : start + self.size])
            await exchange.sleep(self.gap_s)


@frozen
class Stall:
    """Wait; without a number, until the gateway closes the connection."""

    seconds: float | None = None

    async def play(self, exchange: Exchange) -> None:
        await exchange.sleep(self.seconds)


@frozen
class Pass:
    """Wait until the test opens the gate."""

    gate: Gate

    async def play(self, exchange: Exchange) -> None:
        while not self.gate.is_open:
            await exchange.sleep(0.003)


@frozen
class Die:
    """Close the connection, with RST if `reset`."""

    reset: bool = False

    async def play(self, exchange: Exchange) -> None:
        exchange.end(reset=self.reset)


@frozen
class ReadBody:
    """Read the request's body, or `most` bytes of it (for scripts that begin at the head)."""

    most: int | None = None

    async def play(self, exchange: Exchange) -> None:
        await exchange.read_body(self.most)


@frozen
class Chunk:
    """One chunk of a chunked body."""

    data: bytes

    async def play(self, exchange: Exchange) -> None:
        await exchange.write(b"%x\r\n%b\r\n" % (len(self.data), self.data))


@frozen
class LastChunk:
    async def play(self, exchange: Exchange) -> None:
        await exchange.write(b"0\r\n\r\n")


@frozen
class Flood:
    """The same chunk again and again."""

    data: bytes
    times: int

    async def play(self, exchange: Exchange) -> None:
        piece = b"%x\r\n%b\r\n" % (len(self.data), self.data)
        for _ in range(self.times):
            await exchange.write(piece)
            await asyncio.sleep(0)


@frozen
class Head:
    """A head: of an event stream in chunks, unless told otherwise."""

    status: int = 200
    content_type: str | None = "text/event-stream"
    framing: str | None = "Transfer-Encoding: chunked"
    headers: Iterable[tuple[str, str]] = ()
    reason: str = "Whatever"

    async def play(self, exchange: Exchange) -> None:
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        if self.framing:
            lines.append(self.framing)
        lines += [f"{name}: {value}" for name, value in self.headers]
        await exchange.write("\r\n".join([*lines, "", ""]).encode("latin-1"))


@frozen
class Stream:
    """A whole event stream: head, one chunk per event, `[DONE]` unless `done` is False, the end."""

    events: tuple[bytes, ...]
    done: bool = True
    gap_s: float = 0.0
    headers: Iterable[tuple[str, str]] = ()

    async def play(self, exchange: Exchange) -> None:
        await Head(headers=self.headers).play(exchange)
        for data in (*self.events, *([DONE] if self.done else [])):
            await Chunk(data).play(exchange)
            if self.gap_s:
                await exchange.sleep(self.gap_s)
        await LastChunk().play(exchange)


class Answer:
    """Whole answers with a length."""

    @staticmethod
    def data(
        body: bytes,
        status: int = 200,
        content_type: str | None = "application/json",
        headers: Iterable[tuple[str, str]] = (),
    ) -> Send:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
        if content_type:
            lines.append(f"Content-Type: {content_type}")
        lines += [f"{name}: {value}" for name, value in headers]
        return Send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    @staticmethod
    def json(value: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Send:
        return Answer.data(json.dumps(value).encode(), status, headers=headers)

    @staticmethod
    def error(status: int, text: str = "the backend's own words") -> Send:
        return Answer.json({"error": {"message": text, "type": "backend", "code": status}}, status)


def completion(text: str = "Hello.") -> dict[str, Any]:
    """A chat completion as llama-server answers it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1764000000,
        "model": "whatever",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def event(text: str) -> bytes:
    """One streamed piece of a chat completion."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1764000000,
        "model": "whatever",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
