"""Limits of time and of size on clients' connections, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp import http_exceptions

from rolemesh.errors import HeadersTooLarge
from rolemesh.server.connection import (
    BODY_S,
    HEAD_S,
    MAX_AHEAD_BYTES,
    ClientConnection,
    parser_error,
)
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.progress import STALLED_S
from tests.server.front import Front
from tests.server.test_downstream import Told

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n"
WHOLE = HEAD + b"Content-Length: 2\r\n\r\n{}"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("203.0.113.5", 1234)})
        self.sent = b""
        self.unsent = 0
        self.closed = self.aborted = False
        self.reading = True

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed


class Line:
    """A connection that the full parser serves."""

    def __init__(self, front: Front) -> None:
        self.transport = Transport()
        self.connection: ClientConnection = front.server.connections()
        self.connection.connection_made(self.transport)
        self.began = self.connection.heard_at

    def receive(self, data: bytes) -> None:
        self.connection.data_received(data)

    def check(self, after_s: float) -> None:
        self.connection.check(self.transport, self.began + after_s)

    async def served(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def gone(self) -> None:
        self.connection.connection_lost(None)


@pytest.fixture
async def front() -> Front:
    front = Front()
    front.on("POST", "/v1/embeddings", read)
    return front


async def read(inbound: Inbound) -> Answer:
    return Answer(body=await inbound.request.body(100))


@pytest.fixture
def line(front: Front) -> Iterator[Line]:
    line = Line(front)
    yield line
    line.gone()


@pytest.mark.parametrize("sent", [b"", b"P", HEAD], ids=["nothing", "a byte", "half a head"])
async def test_a_head_has_to_come_within_its_time(line: Line, sent: bytes) -> None:
    if sent:
        line.receive(sent)
    line.check(HEAD_S - 1)
    assert not line.transport.closed
    line.check(HEAD_S + 1)
    assert line.transport.closed


async def test_a_head_byte_by_byte_gets_no_more_time(line: Line) -> None:
    for byte in HEAD:
        line.receive(bytes([byte]))
    line.check(HEAD_S + 1)
    assert line.transport.closed


async def test_a_body_that_stops_coming_is_answered_and_ends_the_connection(line: Line) -> None:
    line.receive(HEAD + b"Content-Length: 9\r\n\r\nhalf")
    await line.served()
    line.check(HEAD_S + 1)  # the head was in time
    assert not line.transport.closed
    line.check(BODY_S + 1)
    await line.served()
    assert line.transport.sent.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in line.transport.sent
    assert line.transport.closed


async def test_between_requests_there_is_no_head_to_wait_for(line: Line) -> None:
    line.receive(WHOLE)
    await line.served()
    assert line.transport.sent.startswith(b"HTTP/1.1 200 ")
    line.check(HEAD_S + 1)
    assert not line.transport.closed
    line.receive(b"P")
    line.check(2 * HEAD_S + 1)
    assert line.transport.closed


async def test_a_client_that_takes_nothing_is_let_go(line: Line) -> None:
    line.receive(WHOLE)
    await line.served()
    line.transport.unsent = 50
    line.check(1.0)
    line.check(STALLED_S)
    assert not line.transport.aborted
    line.check(STALLED_S + 2)
    assert line.transport.aborted


async def test_only_so_much_may_be_sent_ahead_while_answers_are_not_taken(line: Line) -> None:
    line.connection.pause_writing()
    line.receive(b"x" * MAX_AHEAD_BYTES)
    assert not line.transport.closed
    line.receive(b"x")
    assert line.transport.closed


async def test_the_next_request_waits_until_the_answer_before_it_is_taken(line: Line) -> None:
    line.connection.pause_writing()
    line.receive(WHOLE)
    await line.served()
    assert line.transport.sent == b""
    line.connection.resume_writing()
    await line.served()
    assert b" 200 " in line.transport.sent


async def test_the_head_behind_a_served_request_has_to_come_within_its_time(line: Line) -> None:
    line.receive(WHOLE + HEAD)
    await line.served()
    assert b" 200 " in line.transport.sent
    line.check(HEAD_S - 1)
    assert not line.transport.closed
    line.check(HEAD_S + 1)
    assert line.transport.closed


async def test_a_body_that_is_being_read_may_pause_its_client(line: Line) -> None:
    line.receive(HEAD + b"Content-Length: 99\r\n\r\nhalf")
    await line.served()
    line.connection.pause_reading()
    assert not line.transport.closed
    assert not line.transport.reading


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (http_exceptions.LineTooLong("s3cret", b"x", 8190), 431, "too large"),
        (http_exceptions.BadHttpMessage("Too many headers received"), 431, "too large"),
        (http_exceptions.BadHttpMethod("s3cret"), 400, "request line"),
        (http_exceptions.BadStatusLine("s3cret"), 400, "request line"),
        (http_exceptions.InvalidURLError("s3cret"), 400, "target"),
        (http_exceptions.InvalidHeader("s3cret"), 400, "header"),
        (http_exceptions.BadHttpMessage("s3cret"), 400, "HTTP/1.1"),
        (None, 400, "HTTP/1.1"),
    ],
)
def test_what_the_parser_says_is_said_in_our_words(
    error: BaseException | None, status: int, word: str
) -> None:
    refused = parser_error(error)
    assert refused.status == status
    assert word in refused.message
    assert "s3cret" not in refused.message
    assert isinstance(refused, HeadersTooLarge) is (status == 431)


async def test_the_relay_to_a_client_that_leaves_is_paused_at_once(line: Line) -> None:
    flow = line.connection.flow = Told()
    line.gone()
    assert flow.paused
