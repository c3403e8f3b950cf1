"""The fake backend and the raw client, tried on each other before a gateway is put between them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.blackbox import expect
from tests.dead_ports import RefusedPort, SilentPort
from tests.fake_backend import FakeBackend
from tests.gateway_process import chat_body
from tests.rawhttp import Malformed, RawClient, Truncated, request_bytes
from tests.script import (
    Answer,
    Chunk,
    Die,
    Gate,
    Head,
    LastChunk,
    Pass,
    ReadBody,
    Send,
    Stall,
    Stream,
    event,
)

PATH = "/v1/chat/completions"


@pytest.fixture
def wire(backend: FakeBackend) -> Iterator[RawClient]:
    with RawClient(("127.0.0.1", backend.port)) as client:
        yield client


def test_a_backend_without_a_script_answers_as_asked(backend: FakeBackend, wire: RawClient) -> None:
    wire.request("POST", PATH, body=chat_body("a"))
    assert wire.reply().json()["object"] == "chat.completion"
    wire.request("POST", PATH, body=chat_body("a", stream=True))
    assert expect.whole_stream(wire.reply().body) == [event("Hel")[:-2], event("lo.")[:-2]]
    assert backend.connections[0].requests == 2


def test_what_arrived_is_recorded_byte_for_byte(backend: FakeBackend, wire: RawClient) -> None:
    sent = request_bytes("POST", PATH, [("X-Odd", "1"), ("x-odd", "2")], b'{"a" : 1}')
    wire.send(*[sent[n : n + 7] for n in range(0, len(sent), 7)], gap_s=0.001)
    assert wire.reply().status == 200
    received = backend.next()
    assert received.raw_head + received.body == sent
    assert received.all("X-ODD") == ["1", "2"]


def test_a_chunked_body_is_recorded_without_its_framing(
    backend: FakeBackend, wire: RawClient
) -> None:
    wire.send(
        request_bytes("POST", PATH, [("Transfer-Encoding", "chunked")])
        + b'3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'
    )
    assert wire.reply().status == 200
    assert backend.next().json() == {"a": 1}


def test_pieces_arrive_when_they_are_sent(backend: FakeBackend, wire: RawClient) -> None:
    gate = Gate()
    backend.script(Head(), Chunk(b"one"), Pass(gate), Chunk(b"two"), LastChunk())
    wire.request("POST", PATH, body=b"{}")
    pieces = wire.pieces(wire.head())
    assert next(pieces) == b"one"
    assert wire.silent_for(0.05)
    gate.open()
    assert b"".join(pieces) == b"two"


def test_a_death_in_mid_answer_is_seen(backend: FakeBackend, wire: RawClient) -> None:
    backend.script(Head(), Chunk(b"one"), Die(reset=True))
    wire.request("POST", PATH, body=b"{}")
    with pytest.raises(Truncated):
        wire.reply()


def test_garbage_is_not_read_as_an_answer(backend: FakeBackend, wire: RawClient) -> None:
    backend.script(Send(b"Hello, world!\r\n\r\n"), Die())
    wire.request("POST", PATH, body=b"{}")
    with pytest.raises(Malformed):
        wire.reply()


def test_a_client_that_leaves_is_noticed_while_the_backend_stalls(backend: FakeBackend) -> None:
    backend.script(Stall())
    with RawClient(("127.0.0.1", backend.port)) as client:
        client.request("POST", PATH, body=b"{}")
        received = backend.next()
        assert not received.closed_within(0.05)
    assert received.closed_within(1)


def test_an_early_script_runs_before_the_body_arrives(
    backend: FakeBackend, wire: RawClient
) -> None:
    backend.script(Answer.json({"early": 1}), ReadBody(), early=True)
    wire.send(request_bytes("POST", PATH, [("Content-Length", "2")]))
    assert wire.reply().json() == {"early": 1}
    received = backend.next(whole=False)
    assert not received.whole.is_set()
    wire.send(b"{}")
    assert received.whole.wait(1)


def test_probes_are_kept_apart_from_requests(backend: FakeBackend, wire: RawClient) -> None:
    wire.request("GET", "/v1/models")
    assert wire.reply().status == 200
    assert len(backend.probes) == 1
    assert backend.none_came(0.01)


def test_a_stream_may_lack_its_done(backend: FakeBackend, wire: RawClient) -> None:
    backend.script(Stream((event("a"),), done=False))
    wire.request("POST", PATH, body=b"{}")
    assert wire.reply().body == event("a")


def test_a_refused_port_refuses_and_a_silent_one_does_not_answer() -> None:
    refused, silent = RefusedPort(), SilentPort()
    with pytest.raises(ConnectionRefusedError):
        RawClient(("127.0.0.1", int(refused.url.rpartition(":")[2])))
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        RawClient(("127.0.0.1", int(silent.url.rpartition(":")[2])), timeout_s=0.3)
    assert time.monotonic() - began > 0.25
    refused.close()
    silent.close()
