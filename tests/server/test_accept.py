"""Real connections to a listener on uvloop, with descriptors to spare and without."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import pytest
import trustme
import uvloop

from rolemesh.server.accept import Listener
from rolemesh.server.limits import Descriptors
from rolemesh.server.listen import listening_sockets


class Echo(asyncio.Protocol):
    open: ClassVar[set[Echo]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        Echo.open.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        Echo.open.discard(self)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - bounded by on_uvloop
        await asyncio.sleep(0.01)


def on_uvloop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function on uvloop; connections it leaves open are closed."""

    async def cleanly() -> None:
        try:
            await work()
        finally:
            for echo in list(Echo.open):
                echo.transport.abort()
            await until(lambda: not Echo.open)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(cleanly(), 20))


def ask(port: int, text: bytes = b"hello", context: ssl.SSLContext | None = None) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        if context is None:
            plain.sendall(text)
            return plain.recv(100)
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            secured.sendall(text)
            return secured.recv(100)


def test_connections_are_served_until_close_and_refused_after():
    async def work() -> None:
        listener = Listener(listening_sockets("127.0.0.1", 0), Descriptors(1000))
        ((_, port),) = listener.addresses
        listener.start(Echo)
        assert await asyncio.to_thread(ask, port) == b"hello"
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(ask, port)

    on_uvloop(work)


def test_an_open_connection_outlives_close():
    async def work() -> None:
        listener = Listener(listening_sockets("127.0.0.1", 0), Descriptors(1000))
        ((host, port),) = listener.addresses
        listener.start(Echo)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        listener.close()
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"
        writer.close()
        await writer.wait_closed()

    on_uvloop(work)


def test_beyond_the_bound_newcomers_are_closed_and_those_inside_are_served():
    async def work() -> None:
        descriptors = Descriptors(1000)
        descriptors.max_connections = 2
        listener = Listener(
            listening_sockets("127.0.0.1", 0), descriptors, open_connections=lambda: len(Echo.open)
        )
        ((host, port),) = listener.addresses
        listener.start(Echo)
        inside = [await asyncio.open_connection(host, port) for _ in range(2)]
        assert await asyncio.to_thread(_closed_at_once, port)
        assert listener.shed == 1
        for reader, writer in inside:
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
        inside[0][1].close()
        await inside[0][1].wait_closed()
        await until(lambda: len(Echo.open) == 1)
        assert await asyncio.to_thread(ask, port) == b"hello"
        inside[1][1].close()
        await inside[1][1].wait_closed()
        listener.close()

    on_uvloop(work)


def _closed_at_once(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as newcomer:
        return newcomer.recv(1) == b""


def test_a_new_certificate_is_used_by_the_next_handshake():
    async def work() -> None:
        first, second = trustme.CA(), trustme.CA()
        listener = Listener(
            listening_sockets("127.0.0.1", 0), Descriptors(1000), tls=_context(first)
        )
        ((_, port),) = listener.addresses
        listener.start(Echo)
        assert await asyncio.to_thread(ask, port, b"x", _trusting(first)) == b"x"
        listener.tls = _context(second)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(ask, port, b"x", _trusting(first))
        assert await asyncio.to_thread(ask, port, b"x", _trusting(second)) == b"x"
        # A plain-text client on a TLS port is closed, and hurts nobody.
        plain = await asyncio.to_thread(_plain_text, port)
        assert b"GET" not in plain
        listener.close()

    on_uvloop(work)


def _plain_text(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            return plain.recv(100)
        except ConnectionResetError:
            return b""


def _context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def _trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# A listener in a process with 64 descriptors. On each line of stdin it tells how it is.
SHORT_OF_DESCRIPTORS = """
import asyncio, json, os, resource, sys, time, uvloop
from rolemesh.server.accept import Listener
from rolemesh.server.limits import Descriptors
from rolemesh.server.listen import listening_sockets

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = []

class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    descriptors = Descriptors(64)
    if sys.argv[1] == "exhausted":
        # Others of the process have taken every descriptor: accept itself fails.
        descriptors.max_connections = descriptors._last_number = 1000
    listener = Listener(listening_sockets("127.0.0.1", 0), descriptors)
    listener.start(Echo)
    print(listener.addresses[0][1], flush=True)
    told = asyncio.Event()
    loop.add_reader(0, lambda: (sys.stdin.readline() and tell()) or None)
    def tell():
        print(json.dumps({"shed": listener.shed, "cpu": time.process_time()}), flush=True)
    await asyncio.sleep(20)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("how", ["bounded", "exhausted"])
def test_running_out_of_descriptors_sheds_newcomers_and_hurts_nobody_inside(how: str):
    child = subprocess.Popen(
        [sys.executable, "-c", SHORT_OF_DESCRIPTORS, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(20, child.kill)
    timer.start()
    assert child.stdin is not None
    assert child.stdout is not None
    port = int(child.stdout.readline())
    inside = socket.create_connection(("127.0.0.1", port), timeout=5)
    crowd = []
    for _ in range(100):
        crowd.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        inside.sendall(b"on")
        assert inside.recv(2) == b"on"
    before = _told(child)
    assert before["shed"] >= 30
    inside.settimeout(0.5)
    with pytest.raises(TimeoutError):
        inside.recv(1)
    assert _told(child)["cpu"] - before["cpu"] < 0.1, "it must not spin"
    inside.settimeout(5)
    for one in crowd:
        one.close()
    assert _answered_again(port)
    inside.sendall(b"end")
    assert inside.recv(3) == b"end"
    inside.close()
    child.kill()
    timer.cancel()
    _, errors = child.communicate()
    assert errors.count("\n") <= 3, errors


def _told(child: subprocess.Popen[str]) -> dict[str, float]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("?\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def _answered_again(port: int) -> bool:
    for _ in range(100):
        try:
            if ask(port) == b"hello":
                return True
        except OSError:
            continue
    return False
