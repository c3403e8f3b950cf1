"""The fast lane's own limits and ends, with a clock that the test moves. (What both lanes have in
common is in test_http.)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rolemesh.errors import InvalidApiKey
from rolemesh.server.connection import (
    BODY_S,
    HEAD_S,
    KEEP_ALIVE_S,
    LINGER_S,
    MAX_AHEAD_BYTES,
    ClientConnection,
)
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.lane import LaneConnection
from rolemesh.server.progress import STALLED_S
from tests.server.front import LANE, Front
from tests.server.test_connection import Transport
from tests.server.test_downstream import Told

START = f"POST {LANE} HTTP/1.1\r\nHost: x\r\n".encode()
WHOLE = START + b"Content-Length: 2\r\n\r\n{}"
ODD = START + b"Transfer-Encoding: chunked\r\n\r\n"


class LaneTransport(Transport):
    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Line:
    """A connection that the fast lane serves, as long as it does."""

    def __init__(self, front: Front) -> None:
        self.transport = LaneTransport()
        made = front.server.new_connection()
        assert isinstance(made, LaneConnection)
        self.connection = made
        self.connection.connection_made(self.transport)
        self.began = asyncio.get_running_loop().time()

    @property
    def server_side(self) -> ClientConnection | LaneConnection:
        handed = self.transport.protocol
        return handed if isinstance(handed, ClientConnection) else self.connection

    def receive(self, data: bytes) -> None:
        self.server_side.data_received(data)

    def check(self, after_s: float) -> None:
        self.connection.check(self.began + after_s)

    async def served(self) -> bytes:
        """What has been sent until everything is at rest."""
        for _ in range(20):
            await asyncio.sleep(0)
        sent, self.transport.sent = self.transport.sent, b""
        return sent

    def gone(self) -> None:
        self.server_side.connection_lost(None)


@pytest.fixture
async def front() -> Front:
    front = Front()
    front.on("POST", LANE, read)
    return front


async def read(inbound: Inbound) -> Answer:
    return Answer(body=await inbound.request.body(MAX_AHEAD_BYTES))


async def refuse(inbound: Inbound) -> Answer:
    raise InvalidApiKey("No key.")


@pytest.fixture
async def line(front: Front) -> AsyncIterator[Line]:
    line = Line(front)
    yield line
    line.gone()


@pytest.mark.parametrize("sent", [b"", b"P", START], ids=["nothing", "a byte", "half a head"])
async def test_a_head_has_to_come_within_its_time(line: Line, sent: bytes) -> None:
    line.receive(sent)
    line.check(HEAD_S - 1)
    assert not line.transport.closed
    line.check(HEAD_S + 1)
    assert line.transport.closed


async def test_between_requests_there_is_more_time_until_the_next_one_begins(line: Line) -> None:
    line.receive(WHOLE)
    assert b" 200 " in await line.served()
    line.check(KEEP_ALIVE_S - 1)
    assert not line.transport.closed
    line.receive(b"POST")
    line.check(HEAD_S + 1)
    assert line.transport.closed


async def test_an_idle_connection_is_closed_after_a_while(line: Line) -> None:
    line.receive(WHOLE)
    await line.served()
    line.check(KEEP_ALIVE_S + 1)
    assert line.transport.closed


async def test_a_body_that_stops_coming_is_answered_and_ends_the_connection(line: Line) -> None:
    line.receive(START + b"Content-Length: 9\r\n\r\nhalf")
    await line.served()
    line.check(BODY_S - 1)
    assert await line.served() == b""
    line.check(BODY_S + 1)
    assert b'"code":"request_timeout"' in await line.served()
    assert line.transport.closed


async def test_a_refused_upload_gets_its_answer_is_thrown_away_and_ends(
    front: Front, line: Line
) -> None:
    front.on("POST", LANE, refuse)
    line.receive(START + b"Content-Length: 9\r\n\r\nhalf")
    sent = await line.served()
    assert sent.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in sent
    assert not line.transport.closed
    line.receive(b"more")
    assert not line.transport.closed
    line.receive(b".")
    assert line.transport.closed


async def test_a_refused_upload_that_does_not_end_is_not_read_for_long(
    front: Front, line: Line
) -> None:
    front.on("POST", LANE, refuse)
    line.receive(START + b"Content-Length: 9\r\n\r\nhalf")
    await line.served()
    line.check(LINGER_S - 0.5)
    assert not line.transport.closed
    line.check(LINGER_S + 0.5)
    assert line.transport.closed


async def test_only_so_much_may_be_sent_ahead_while_answers_are_not_taken(line: Line) -> None:
    line.connection.pause_writing()
    line.receive(b"x" * MAX_AHEAD_BYTES)
    assert not line.transport.closed
    line.receive(b"x")
    assert line.transport.closed


async def test_the_head_behind_a_served_request_has_to_come_within_its_time(line: Line) -> None:
    line.receive(WHOLE + START)
    assert b" 200 " in await line.served()
    line.check(HEAD_S - 1)
    assert not line.transport.closed
    line.check(HEAD_S + 1)
    assert line.transport.closed


async def test_an_idle_connection_is_one_since_its_last_answer(
    front: Front, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that took to make."""
    loop = asyncio.get_running_loop()
    ahead_s = 0.0
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + ahead_s)

    async def take_long(inbound: Inbound) -> Answer:
        nonlocal ahead_s
        ahead_s = 2 * KEEP_ALIVE_S
        return await read(inbound)

    front.on("POST", LANE, take_long)
    line.receive(WHOLE + START[:9])
    assert b" 200 " in await line.served()
    line.check(2 * KEEP_ALIVE_S + HEAD_S - 1)
    assert not line.transport.closed
    line.check(2 * KEEP_ALIVE_S + HEAD_S + 1)
    assert line.transport.closed


async def test_a_client_that_takes_nothing_is_let_go(line: Line) -> None:
    line.receive(WHOLE)
    await line.served()
    line.transport.unsent = 50
    line.check(0.0)
    line.check(STALLED_S - 1)
    assert not line.transport.aborted
    line.check(STALLED_S + 1)
    assert line.transport.aborted


async def test_the_next_request_waits_until_the_answer_before_it_is_taken(line: Line) -> None:
    line.connection.pause_writing()
    line.receive(WHOLE)
    assert await line.served() == b""
    line.connection.resume_writing()
    assert b" 200 " in await line.served()


async def test_an_odd_request_is_handed_over_with_all_that_has_come(line: Line) -> None:
    line.receive(WHOLE + ODD[:30])
    assert b"{}" in await line.served()
    line.receive(ODD[30:] + b"2\r\nab\r\n")
    assert isinstance(line.server_side, ClientConnection)
    line.receive(b"0\r\n\r\n")
    assert b"\r\n\r\nab" in await line.served()


async def test_a_client_that_takes_nothing_is_let_go_behind_a_handover_too(line: Line) -> None:
    line.receive(WHOLE)
    await line.served()
    line.transport.unsent = 60_000  # of what the lane wrote
    line.receive(ODD)
    handed = line.server_side
    assert isinstance(handed, ClientConnection)
    handed.check(line.transport, line.began)
    handed.check(line.transport, line.began + STALLED_S + 1)
    assert line.transport.aborted


async def test_nothing_is_handed_over_while_an_answer_waits_to_be_taken(line: Line) -> None:
    """aiohttp has to be told itself when it may write again."""
    line.connection.pause_writing()
    line.receive(ODD)
    assert line.transport.protocol is None
    line.connection.resume_writing()
    assert isinstance(line.transport.protocol, ClientConnection)


async def test_the_clock_of_a_head_goes_along(line: Line) -> None:
    line.receive(b"POST ")
    await asyncio.sleep(0.05)
    line.receive(b"/elsewhere HTTP/1.1\r\nHost: x\r\n")
    handed = line.server_side
    assert isinstance(handed, ClientConnection)
    handed.check(line.transport, line.began + HEAD_S - 0.02)
    assert not line.transport.closed
    handed.check(line.transport, line.began + HEAD_S + 0.02)
    assert line.transport.closed


async def test_a_head_in_very_many_reads_is_the_full_parsers(line: Line) -> None:
    """It goes on where it was, and does not look at all of it again."""
    for byte in WHOLE:
        line.receive(bytes([byte]))
    assert isinstance(line.server_side, ClientConnection)
    assert b"{}" in await line.served()


async def test_a_client_that_leaves_cancels_its_request(front: Front, line: Line) -> None:
    line.receive(START + b"Content-Length: 9\r\n\r\nhalf")
    await line.served()
    assert front.server.in_flight == 1
    flow = line.connection.flow = Told()
    line.connection.connection_lost(ConnectionResetError())
    assert flow.paused  # at once: nothing can be written any more
    await line.served()
    assert front.server.in_flight == 0
    assert [inbound.line.outcome for inbound in front.ended] == ["client_abort"]
    assert front.server.open_connections == 0
