"""A backend that does what it is told: a real listener whose every answer is a script.

Runs on a loop of its own in a thread, so that blocking tests can stand on both sides of a gateway.
It records each request byte for byte, and when the gateway closed each connection. GET is answered
by `probe` (a gateway asks whether it is there), everything else by the next script, or `otherwise`.
"""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Coroutine
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

from attrs import define, field

from tests.script import Answer, Step, Stream, completion, event

T = TypeVar("T")
WAIT_S = 5.0


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop on which every fake backend of this process runs."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="fake-backends", daemon=True).start()
    return loop


def _on_loop(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(WAIT_S)


class _Over(Exception):
    """The exchange is over: the script ended the connection, or the gateway left."""


@define(eq=False)
class Connection:
    """One connection that the gateway made. `closed` is set once the gateway has closed it."""

    number: int
    closed: threading.Event = field(factory=threading.Event)
    closed_at: float | None = None
    requests: int = 0

    def note_closed(self) -> None:
        if not self.closed.is_set():
            self.closed_at = time.monotonic()
            self.closed.set()


@define(eq=False)
class Received:
    """One request as it came. `whole` is set when its body was read to the end."""

    connection: Connection
    raw_head: bytes
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    whole: threading.Event = field(factory=threading.Event)
    sent: int = 0  # bytes of the answer handed to the kernel so far

    def get(self, name: str) -> str | None:
        values = self.all(name)
        if len(values) > 1:
            raise AssertionError(f"{name} is there {len(values)} times: {values}")
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        return json.loads(self.body)

    def closed_within(self, seconds: float) -> bool:
        """The gateway closes this connection within `seconds` from now."""
        return self.connection.closed.wait(seconds)


class _Watch(asyncio.StreamReaderProtocol):
    """Notes the gateway's leaving, also while nobody reads."""

    def __init__(self, backend: FakeBackend) -> None:
        self._own_reader = asyncio.StreamReader(limit=1 << 20, loop=_loop())
        super().__init__(self._own_reader, backend._serve, loop=_loop())
        self._backend = backend
        self.link = Connection(0)
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.link = Connection(len(self._backend.connections) + 1)
        self._backend.connections.append(self.link)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self._left()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        super().connection_lost(exc)

    def _left(self) -> None:
        self.link.note_closed()
        self.gone.set()


class _Exchange:
    """One request and its answer; what the steps of a script act on."""

    def __init__(
        self, watch: _Watch, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._watch = watch
        self._reader = reader
        self._writer = writer
        self._left = 0
        self._chunked = False

    async def read_head(self) -> Received:
        """The first thing to do with an exchange."""
        raw = await self._reader.readuntil(b"\r\n\r\n")
        lines = raw[:-4].decode("latin-1").split("\r\n")
        method, target, _version = lines[0].split(" ")
        pairs = [line.partition(":") for line in lines[1:]]
        headers = [(name, value.strip()) for name, _, value in pairs]
        self._watch.link.requests += 1
        self.received = Received(self._watch.link, raw, method, target, headers)
        self._chunked = "chunked" in (self.received.get("Transfer-Encoding") or "")
        self._left = int(self.received.get("Content-Length") or 0)
        return self.received

    async def read_body(self, most: int | None = None) -> None:
        if self._chunked:
            await self._read_chunks()
        else:
            wanted = self._left if most is None else min(most, self._left)
            while wanted:
                piece = await self._reader.read(min(wanted, 65536))
                if not piece:
                    raise _Over
                self.received.body += piece
                wanted -= len(piece)
                self._left -= len(piece)
        if not self._left:
            self.received.whole.set()

    async def _read_chunks(self) -> None:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            self.received.body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readuntil(b"\r\n")
        self._chunked = False

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.received.sent += len(data)

    async def sleep(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._watch.gone.wait(), seconds)
        except TimeoutError:
            return
        raise _Over

    def end(self, *, reset: bool = False) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._writer.transport.abort()
        raise _Over


@define(frozen=True)
class _Script:
    steps: tuple[Step, ...]
    early: bool = False


class FakeBackend:
    """`with FakeBackend() as backend: backend.script(...)`. Safe to use from any thread."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls = tls
        self._host = host
        self._server: asyncio.Server | None = None
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._news: queue.Queue[Received] = queue.Queue()
        self.connections: list[Connection] = []
        self.received: list[Received] = []
        self.probes: list[Received] = []
        self.scripts: deque[_Script] = deque()
        self._otherwise: _Script | None = None
        self._probe: _Script = _Script((Answer.json({"object": "list", "data": []}),))

    # What to do

    def script(self, *steps: Step, early: bool = False) -> None:
        """The steps for the next request without any. `early`: from its head on, body unread."""
        self.scripts.append(_Script(steps, early))

    def otherwise(self, *steps: Step, early: bool = False) -> None:
        """The steps for each request that has no script."""
        self._otherwise = _Script(steps, early)

    def probe(self, *steps: Step) -> None:
        """The steps for each GET."""
        self._probe = _Script(steps)

    # What was seen

    def next(self, *, whole: bool = True, timeout_s: float = WAIT_S) -> Received:
        """The next request not yet taken, waited for; with its body unless `whole` is False."""
        try:
            received = self._news.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError("no request arrived at the backend") from None
        if whole and not received.whole.wait(timeout_s):
            raise AssertionError("the request's body did not arrive")
        return received

    def none_came(self, within_s: float = 0.2) -> bool:
        """No request arrives that was not taken already."""
        try:
            self._news.get(timeout=within_s)
        except queue.Empty:
            return True
        return False

    @property
    def open_connections(self) -> int:
        return sum(not connection.closed.is_set() for connection in self.connections)

    # Life

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{self._host}:{self.port}"

    def __enter__(self) -> FakeBackend:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, port: int = 0) -> FakeBackend:
        self.port = _on_loop(self._listen(port))
        return self

    def stop(self) -> None:
        """Refuse new connections and drop those that are open."""
        _on_loop(self._close())

    def drop_connections(self) -> None:
        """Close what is open, as a backend does with idle keep-alive connections."""
        _on_loop(self._drop())

    async def _listen(self, port: int) -> int:
        self._server = await _loop().create_server(
            lambda: _Watch(self), self._host, port, ssl=self._tls, backlog=512
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._drop()

    async def _drop(self) -> None:
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watch = writer.transport.get_protocol()
        assert isinstance(watch, _Watch)
        self._writers.add(writer)
        try:
            while True:
                await self._answer(_Exchange(watch, reader, writer))
        except (_Over, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, exchange: _Exchange) -> None:
        received = await exchange.read_head()
        probing = received.method == "GET"
        (self.probes if probing else self.received).append(received)
        script = self._probe if probing else self._next_script()
        if not probing:
            self._news.put(received)
        if script is None or not script.early:
            await exchange.read_body()
        for step in script.steps if script else _ordinary(received):
            await step.play(exchange)

    def _next_script(self) -> _Script | None:
        return self.scripts.popleft() if self.scripts else self._otherwise


def _ordinary(received: Received) -> tuple[Step, ...]:
    """What a well-behaved backend would answer."""
    try:
        streaming = received.json().get("stream") is True
    except ValueError:
        streaming = False
    if streaming:
        return (Stream((event("Hel"), event("lo."))),)
    return (Answer.json(completion()),)
