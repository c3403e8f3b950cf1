"""A connection on a transport that is only recorded: sent, kept, or closed."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from rolemesh.core.failover import Failure
from rolemesh.proxy.answer import Answer
from rolemesh.proxy.connection import IDLE_S, READ_BYTES, Connection
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.proxy.pool import Pool
from tests.proxy.recording import TIMEOUTS, Clock
from tests.proxy.test_answer import LENGTH, fed


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 8011)})
        self.sent = b""
        self.unsent = 0
        self.reading = True
        self.closed = False

    def write(self, data: object) -> None:
        self.sent += cast(bytes, data)

    def writelines(self, data: object) -> None:
        self.sent += b"".join(cast("list[bytes]", data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        assert not self.closed
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closed
        self.reading = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class KeptConnections:
    def __init__(self) -> None:
        self.kept: dict[Connection, float] = {}
        self.unanswered: set[Connection] = set()

    def begun(self, connection: Connection) -> None:
        self.unanswered.add(connection)

    def answered(self, connection: Connection) -> None:
        self.unanswered.remove(connection)

    def keep(self, connection: Connection, idle_s: float) -> None:
        self.kept[connection] = idle_s

    def lost(self, connection: Connection) -> None:
        self.kept.pop(connection, None)


class Line:
    """A connection that is up, and the pool that it goes back to."""

    def __init__(self) -> None:
        self.pool = KeptConnections()
        self.transport = Transport()
        self.connection = Connection(cast(Pool, self.pool))
        self.connection.connection_made(self.transport)
        self.connection.join()

    def begin(self) -> Exchange:
        exchange = _exchange(self.connection)
        self.connection.begin(exchange, [b"GET / ", b"HTTP/1.1\r\n\r\n"])
        return exchange

    def receive(self, data: bytes) -> None:
        buffer = self.connection.get_buffer(-1)
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))


def _exchange(connection: Connection) -> Exchange:
    return Exchange(connection, TIMEOUTS, cast(asyncio.AbstractEventLoop, Clock()))


def _answer(fields: bytes = b"") -> Answer:
    return fed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n")


def test_a_request_is_sent_and_what_comes_is_its_exchanges() -> None:
    line = Line()
    exchange = line.begin()
    assert line.transport.sent == b"GET / HTTP/1.1\r\n\r\n"
    line.receive(LENGTH)
    assert exchange.opened.result() is None
    assert exchange.answer.take() == b"hello"
    assert line.connection in line.pool.kept
    assert line.connection.exchange is None


def test_a_request_on_a_connection_that_has_just_gone_fails_at_once() -> None:
    """The backend hung up between the handshake and this turn of the loop."""
    gone = Connection(cast(Pool, KeptConnections()))
    exchange = _exchange(gone)
    gone.begin(exchange, [b"GET / HTTP/1.1\r\n\r\n"])
    broken = exchange.opened.exception()
    assert isinstance(broken, Broken)
    assert broken.failure is Failure.LOST_BEFORE_HEAD


def test_a_lost_connection_is_its_exchanges_loss_and_leaves_the_pool() -> None:
    line = Line()
    exchange = line.begin()
    line.connection.connection_lost(None)
    assert isinstance(exchange.opened.exception(), Broken)
    assert not line.connection.usable
    idle = Line()
    idle.pool.keep(idle.connection, 1.0)
    idle.connection.connection_lost(ConnectionResetError())
    assert not idle.pool.kept


def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    line = Line()
    line.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert line.transport.closed


def test_a_half_closed_connection_is_closed() -> None:
    assert Line().connection.eof_received() is False


@pytest.mark.parametrize(
    ("fields", "idle_s"),
    [
        (b"", IDLE_S),
        (b"Keep-Alive: timeout=60\r\n", IDLE_S),
        (b"Keep-Alive: timeout=5, max=100\r\n", 4.0),
        (b"Keep-Alive: timeout=3\r\n", 2.0),
        (b"Keep-Alive: timeout=1\r\n", None),
        (b"Keep-Alive: timeout=0\r\n", None),
        (b"Connection: close\r\n", None),
    ],
)
def test_it_is_kept_for_as_long_as_the_backend_keeps_it_less_a_margin(
    fields: bytes, idle_s: float | None
) -> None:
    line = Line()
    line.connection.finished(_answer(fields))
    assert line.pool.kept.get(line.connection) == idle_s
    assert line.transport.closed is (idle_s is None)


def test_it_is_not_kept_while_some_of_the_request_is_unsent() -> None:
    line = Line()
    line.transport.unsent = 1
    line.connection.finished(_answer())
    assert line.transport.closed
    assert not line.pool.kept


def test_it_is_not_kept_when_it_is_closing_already() -> None:
    line = Line()
    line.transport.closed = True
    line.connection.finished(_answer())
    assert not line.pool.kept


def test_a_paused_connection_reads_again_once_it_is_idle() -> None:
    """Else nobody would notice that the backend closes it."""
    line = Line()
    line.connection.pause_reading()
    assert not line.transport.reading
    line.connection.finished(_answer())
    assert line.transport.reading


def test_nothing_is_asked_of_a_transport_that_is_closing_or_gone() -> None:
    line = Line()
    line.connection.abort()
    line.connection.pause_reading()
    line.connection.resume_reading()
    line.connection.connection_lost(None)
    line.connection.pause_reading()
    line.connection.resume_reading()
    line.connection.abort()
    line.connection.finished(_answer())
    assert line.connection.address == ""


def test_its_address_is_the_one_connected_to() -> None:
    assert Line().connection.address == "10.0.0.1"


def test_all_connections_read_into_one_buffer() -> None:
    first, second = Line(), Line()
    assert first.connection.get_buffer(1) is second.connection.get_buffer(300_000)
    assert len(first.connection.get_buffer(300_000)) == READ_BYTES
