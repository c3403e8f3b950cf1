"""Heads and framing, byte for byte, on a transport that is only recorded."""

from __future__ import annotations

import asyncio
import re

import pytest

from rolemesh.core.types import Flow
from rolemesh.server.downstream import ConnectionDownstream, bytes_given

FIELDS = b"A: b\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nA: b\r\n"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.how_it_ended = ""

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.writes.append(data)

    def close(self) -> None:
        self.how_it_ended = self.how_it_ended or "closed"

    def abort(self) -> None:
        self.how_it_ended = self.how_it_ended or "aborted"

    def is_closing(self) -> bool:
        return bool(self.how_it_ended)


class Client:
    """The connection of a client: what a downstream needs of it."""

    def __init__(
        self, *, keep_alive: bool = True, head_only: bool = False, old_client: bool = False
    ) -> None:
        self.sent = Transport()
        self.transport: Transport | None = self.sent
        self.flow: Flow | None = None
        self.writing_paused = False
        self.written = 0
        self.downstream = ConnectionDownstream(
            self, keep_alive=keep_alive, head_only=head_only, old_client=old_client
        )

    @property
    def bytes_sent(self) -> bytes:
        """Without the Date, which is another one each time."""
        return re.sub(rb"Date: [^\r]+\r\n", b"", b"".join(self.sent.writes))

    def answer(self, length: int | None, *pieces: bytes, status: int = 200) -> bytes:
        self.downstream.start(status, FIELDS, length)
        for piece in pieces:
            self.downstream.write(piece)
        self.downstream.end()
        return self.bytes_sent


class Told:
    def __init__(self) -> None:
        self.paused = 0
        self.straight_bytes = self.straight_body = 0

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.paused -= 1


@pytest.mark.parametrize(
    ("client", "length", "pieces", "sent"),
    [
        (Client(), 5, [b"hel", b"lo"], HEAD + b"Content-Length: 5\r\n\r\nhello"),
        (Client(), 0, [], HEAD + b"Content-Length: 0\r\n\r\n"),
        (
            Client(),
            None,
            [b"hel", b"", b"lo"],
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ),
        (Client(), None, [], HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            Client(keep_alive=False),
            1,
            [b"x"],
            HEAD + b"Content-Length: 1\r\nConnection: close\r\n\r\nx",
        ),
        # HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
        (
            Client(old_client=True),
            1,
            [b"x"],
            HEAD + b"Content-Length: 1\r\nConnection: keep-alive\r\n\r\nx",
        ),
        (Client(old_client=True), None, [b"x"], HEAD + b"Connection: close\r\n\r\nx"),
        # HEAD: the head that GET would have had.
        (Client(head_only=True), 5, [b"hello"], HEAD + b"Content-Length: 5\r\n\r\n"),
        (
            Client(head_only=True),
            None,
            [b"hello"],
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        ),
    ],
)
def test_an_answer_is_framed_for_its_client(
    client: Client, length: int | None, pieces: list[bytes], sent: bytes
) -> None:
    assert client.answer(length, *pieces) == sent
    assert client.downstream.whole
    assert client.written == len(b"".join(client.sent.writes))


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("length", [None, 0, 5])
def test_an_answer_without_a_body_has_no_framing(status: int, length: int | None) -> None:
    """RFC 9110 section 8.6 and RFC 9112 section 6.1."""
    sent = Client().answer(length, b"hello", status=status)
    assert sent.endswith(b"\r\nA: b\r\n\r\n")


def test_the_head_leaves_with_the_first_bytes_of_the_body() -> None:
    client = Client()
    client.downstream.start(200, FIELDS, None)
    assert client.downstream.started
    assert client.sent.writes == []
    client.downstream.write(b"x")
    assert len(client.sent.writes) == 1
    assert client.sent.writes[0].endswith(b"\r\n\r\n1\r\nx\r\n")


def test_an_old_clients_answer_without_a_length_ends_its_connection() -> None:
    client = Client(old_client=True)
    client.answer(None, b"x")
    assert not client.downstream.keep_alive


def test_body_bytes_are_counted_without_their_framing() -> None:
    client = Client()
    client.answer(None, b"hel", b"lo")
    assert client.downstream.body_bytes == 5
    client = Client(head_only=True)
    client.answer(5, b"hello")
    assert client.downstream.body_bytes == 0


@pytest.mark.parametrize(
    ("old_client", "length", "ended"),
    [
        (False, 9, "closed"),
        (False, None, "closed"),
        (True, 9, "closed"),
        (True, None, "aborted"),  # only a reset tells that this was not the end
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_an_answer_that_breaks_off_can_be_told_from_a_whole_one(
    old_client: bool, length: int | None, ended: str, begun: bool
) -> None:
    client = Client(old_client=old_client)
    client.downstream.start(200, FIELDS, length)
    if begun:
        client.downstream.write(b"x")
    client.downstream.cut()
    assert client.sent.how_it_ended == ended
    assert not client.downstream.keep_alive
    assert not b"".join(client.sent.writes).endswith(b"0\r\n\r\n")


def test_a_client_that_has_left_is_written_nothing() -> None:
    client = Client()
    assert not client.downstream.gone
    client.transport = None
    assert client.downstream.gone
    assert client.answer(1, b"x") == b""
    client.downstream.cut()
    closing = Client()
    closing.sent.close()
    assert closing.downstream.gone


def test_a_flow_is_told_at_once_when_the_client_is_full() -> None:
    client, flow = Client(), Told()
    client.downstream.connect(flow)
    assert client.flow is flow
    assert flow.paused == 0
    client.writing_paused = True
    client.downstream.connect(flow)
    assert flow.paused == 1
    client.downstream.connect(None)
    assert client.flow is None


def test_what_goes_the_short_way_is_counted_with_the_rest() -> None:
    client, flow = Client(), Told()
    client.downstream.start(200, FIELDS, None)
    straight = client.downstream.connect(flow)
    assert straight is not None
    client.downstream.write(b"hello")
    before = client.written
    straight(b"2\r\nyo\r\n")
    flow.straight_bytes, flow.straight_body = 7, 2
    assert bytes_given(client) == before + 7
    client.downstream.connect(None)
    assert bytes_given(client) == client.written == before + 7
    assert client.downstream.body_bytes == 7
    assert client.bytes_sent.endswith(b"\r\n\r\n5\r\nhello\r\n2\r\nyo\r\n")


@pytest.mark.parametrize(
    ("client", "length"),
    [(Client(), 5), (Client(head_only=True), None), (Client(old_client=True), None)],
)
def test_there_is_no_short_way_but_for_chunks(client: Client, length: int | None) -> None:
    client.downstream.start(200, FIELDS, length)
    assert client.downstream.connect(Told()) is None


def test_there_is_no_short_way_to_a_client_that_has_left() -> None:
    client = Client()
    client.downstream.start(200, FIELDS, None)
    client.transport = None
    assert client.downstream.connect(Told()) is None
