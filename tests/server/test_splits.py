"""However the bytes of a connection are split, and whichever lane takes them: the same answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from rolemesh.server.connection import EOF_S
from rolemesh.server.inbound import Answer, Inbound
from tests.server.front import LANE, Front
from tests.server.test_lane import LaneTransport

SLOW = "/v1/embeddings"
BODIES = st.sampled_from([b"", b"{}", b"a\r\n\r\nb", b"\r\n", b"\r\n\r", b"GET / HTTP/1.1\r\n\r\n"])
PATHS = st.sampled_from([LANE, LANE, SLOW])
OTHERS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET http://[v1.x]@ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\nContent-Length: 30\r\n\r\n",
    f"POST {LANE} HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n".encode(),
    f"POST {SLOW} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX\r\n".encode(),
    b"junk\r\n\r\n",
    b"\r\n",
    b"\r\n\r\n",
]


OTHERS += [
    f"POST {LANE} HTTP/1.1\r\nHost: x\r\n{field}\r\nContent-Length: 0\r\n\r\n".encode()
    for field in ("Proxy-Connection: close", "Sec-WebSocket-Key1: x", "Expect: 100-continue")
]


@frozen
class Came:
    """What a connection came to."""

    answers: bytes
    closed: bool


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    path, body = draw(PATHS), draw(BODIES)
    match draw(st.integers(0, 3)):
        case 0:
            return draw(st.sampled_from(OTHERS))
        case 1:
            trailer = draw(st.sampled_from([b"", b"", b"A: b\r\n", b"Host: y\r\n", b"no\r\n"]))
            chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            return head + chunks + b"0\r\n" + trailer + b"\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head + body


@st.composite
def places(draw: st.DrawFn, data: bytes) -> list[int]:
    """Where to cut: anywhere, and in the ends of heads, which are what counts."""
    ends = [match.end() for match in re.finditer(rb"\r\n\r\n", data)]
    near = st.sampled_from(ends or [1]).flatmap(lambda end: st.integers(end - 4, end + 2))
    return draw(st.lists(st.one_of(near, st.integers(1, len(data))), max_size=8))


async def come_to(front: Front, *, fast: bool, parts: Iterable[bytes], turns: int) -> Came:
    """`turns` of the event loop pass between two reads."""
    front.server.fast_lane = fast
    transport = LaneTransport()
    transport.protocol = front.server.new_connection()
    transport.protocol.connection_made(transport)
    for part in parts:
        if not transport.closed:
            assert isinstance(transport.protocol, asyncio.Protocol)
            transport.protocol.data_received(part)
        for _ in range(turns):
            await asyncio.sleep(0)
    for _ in range(400):
        await asyncio.sleep(0)
    closed = transport.closed
    transport.protocol.connection_lost(None)
    await asyncio.sleep(0)
    sent = re.sub(rb"(Date|X-Request-ID): [^\r]*\r\n", b"", transport.sent)
    return Came(sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""), closed)


async def echo(inbound: Inbound) -> Answer:
    return Answer(body=b"<%b>" % await inbound.request.body(1000))


async def echo_later(inbound: Inbound) -> Answer:
    await asyncio.sleep(0)
    return await echo(inbound)


def a_front() -> Front:
    front = Front()
    front.on("POST", LANE, echo)
    front.on("POST", SLOW, echo_later)
    front.on("GET", "/", echo)
    return front


@given(data=st.data(), sent=st.lists(requests(), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_the_same_answers_however_the_bytes_are_split(
    data: st.DataObject, sent: list[bytes]
) -> None:
    whole = b"".join(sent)
    cuts = sorted({0, len(whole), *(place for place in data.draw(places(whole)) if place > 0)})
    parts = [whole[start:end] for start, end in pairwise(cuts)]
    turns = data.draw(st.sampled_from([0, 1, 2, 10]))

    async def compare() -> None:
        front = a_front()
        expected = await come_to(front, fast=True, parts=[whole], turns=0)
        for fast in (True, False):
            for these in ([whole], parts, [bytes([byte]) for byte in whole]):
                assert await come_to(front, fast=fast, parts=these, turns=turns) == expected
        assert front.server.in_flight == 0

    asyncio.run(compare())


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "full parser"])
async def test_a_blank_line_in_three_reads_ends_a_body(fast: bool) -> None:
    head = f"POST {LANE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    parts = [head + b"0\r\n", b"\r", b"\n" + OTHERS[0] * 2]
    came = await come_to(a_front(), fast=fast, parts=parts, turns=10)
    assert came.answers.count(b" 200 OK") == 3


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "full parser"])
async def test_a_length_of_thousands_of_digits_is_a_number(fast: bool) -> None:
    zeros = "0" * 5_000
    head = f"POST {LANE} HTTP/1.1\r\nHost: x\r\nContent-Length: {zeros}2\r\n\r\n".encode()
    came = await come_to(a_front(), fast=fast, parts=[head, b"{}"], turns=10)
    assert came.answers.endswith(b"<{}>")


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "full parser"])
async def test_a_length_that_the_parser_takes_for_none_ends_the_connection(fast: bool) -> None:
    head = f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {2**64 - 1}\r\n\r\n".encode()
    came = await come_to(a_front(), fast=fast, parts=[head, OTHERS[0]], turns=10)
    assert came.answers.count(b"HTTP/1.1 ") == 1
    assert came.closed


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "full parser"])
@pytest.mark.parametrize("turns", range(9))
async def test_all_that_was_asked_is_answered_when_a_client_has_said_all(
    fast: bool, turns: int
) -> None:
    """Also when its end comes between two of its requests."""
    front = a_front()
    front.server.fast_lane = fast
    transport = LaneTransport()
    transport.protocol = front.server.new_connection()
    transport.protocol.connection_made(transport)
    transport.protocol.data_received(
        f"POST {LANE} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode() * 3
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    hears_on = transport.protocol.eof_received()
    assert hears_on or transport.sent.count(b" 200 OK") == 3
    for _ in range(50):
        await asyncio.sleep(0)
    assert transport.sent.count(b" 200 OK") == 3
    await asyncio.sleep(EOF_S)
    assert transport.closed or not hears_on
    transport.protocol.connection_lost(None)
