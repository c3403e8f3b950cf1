"""Streams: every whole event at once, never half of one, and an end that cannot be mistaken."""

from __future__ import annotations

import json

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Solo
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import RawClient
from tests.script import (
    DONE,
    Chunk,
    Die,
    Gate,
    Head,
    LastChunk,
    Pass,
    Send,
    Slowly,
    Step,
    Stream,
    event,
)

PATH = "/v1/chat/completions"
SEPARATORS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}


def ask(wire: RawClient, alias: str, path: str = PATH) -> None:
    wire.request("POST", path, body=chat_body(alias, stream=True))


def streamed(gateway: GatewayProcess, solo: Solo, *steps: Step, path: str = PATH) -> bytes:
    """The body of a stream that the backend makes of these steps after a head."""
    solo.backend.script(Head(), *steps)
    reply = gateway.post(path, chat_body(solo.alias, stream=True))
    assert reply.status == 200
    return reply.body


def test_a_stream_arrives_as_it_was_sent(gateway: GatewayProcess, solo: Solo) -> None:
    sent = (
        event("Hel"),
        event("lo"),
        b": a comment\n\n",
        event("."),
        b"event: x\nid: 1\ndata: {}\n\n",
    )
    solo.backend.script(Stream(sent))
    reply = gateway.chat(solo.alias, stream=True)
    assert reply.body == b"".join(sent) + DONE
    assert (reply.get("Content-Type") or "").startswith("text/event-stream")
    assert reply.get("Cache-Control") == "no-cache"
    assert reply.get("X-Accel-Buffering") == "no"


def test_every_event_is_passed_on_at_once(gateway: GatewayProcess, solo: Solo) -> None:
    gates = [Gate() for _ in range(4)]
    steps: list[Step] = [Head()]
    for number, gate in enumerate(gates):
        steps += [Chunk(event(str(number))), Pass(gate)]
    solo.backend.script(*steps, Chunk(DONE), LastChunk())
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        pieces = wire.pieces(wire.head())
        for number, gate in enumerate(gates):
            assert wire.until(pieces, b"\n\n") == event(str(number))
            gate.open()
        assert b"".join(pieces) == DONE


def test_the_head_waits_for_the_first_byte_of_the_body(gateway: GatewayProcess, solo: Solo) -> None:
    gate = Gate()
    solo.backend.script(Head(), Pass(gate), Chunk(event("a")), Chunk(DONE), LastChunk())
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        solo.backend.next()
        assert wire.silent_for(0.3)
        gate.open()
        expect.whole_stream(wire.reply().body)


def test_half_an_event_waits_for_its_end(gateway: GatewayProcess, solo: Solo) -> None:
    gate = Gate()
    whole, half = event("whole"), event("in two halves")
    solo.backend.script(
        Head(), Chunk(whole + half[:20]), Pass(gate), Chunk(half[20:]), Chunk(DONE), LastChunk()
    )
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        pieces = wire.pieces(wire.head())
        assert wire.until(pieces, b"\n\n") == whole
        assert wire.silent_for(0.2)
        gate.open()
        assert b"".join(pieces) == half + DONE


@pytest.mark.parametrize("end", SEPARATORS.values(), ids=SEPARATORS)
def test_events_may_end_in_any_way_that_is_allowed(
    gateway: GatewayProcess, solo: Solo, end: bytes
) -> None:
    gate = Gate()
    first = b"data: {}" + end + end
    rest = b"data: 1" + end + b"data: 2" + end + end + b"data: [DONE]" + end + end
    solo.backend.script(Head(), Chunk(first), Pass(gate), Chunk(rest), LastChunk())
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        pieces = wire.pieces(wire.head())
        # After CR CR an LF might still belong to it: only that byte may be waited for.
        assert wire.until(pieces, b"}" + end + end) == first
        gate.open()
        assert b"".join(pieces) == rest


@pytest.mark.parametrize("end", SEPARATORS.values(), ids=SEPARATORS)
def test_a_stream_in_single_bytes_arrives_whole(
    gateway: GatewayProcess, solo: Solo, end: bytes
) -> None:
    text = b"data: {}" + end + end + b": ping" + end + end + b"data: [DONE]" + end + end
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in text)
    assert streamed(gateway, solo, Slowly(chunks, 1, 0.0003), LastChunk()) == text


def test_mixed_line_ends_arrive_whole(gateway: GatewayProcess, solo: Solo) -> None:
    text = b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\rdata: 4\n\ndata: [DONE]\r\n\r\n"
    assert streamed(gateway, solo, Chunk(text), LastChunk()) == text


def test_events_larger_than_the_hold_are_passed_on_whole(
    gateway: GatewayProcess, solo: Solo
) -> None:
    big = event("x" * 300_000)
    assert streamed(
        gateway, solo, Chunk(big[:70_000]), Chunk(big[70_000:]), Chunk(DONE), LastChunk()
    ) == (big + DONE)


def test_a_piece_beyond_the_hold_does_not_wait_for_its_end(
    gateway: GatewayProcess, solo: Solo
) -> None:
    gate = Gate()
    big = event("x" * 200_000)
    solo.backend.script(Head(), Chunk(big[:150_000]), Pass(gate), Chunk(big[150_000:]), Die())
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        pieces = wire.pieces(wire.head())
        got = b""
        while len(got) < 150_000 - 65_536:
            got += next(pieces)
        gate.open()


# Ends that are none

DEATHS = {"FIN": Die(), "RST": Die(reset=True), "garbage": Send(b"no chunk\r\n")}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_death_between_events_ends_in_an_error_event(
    gateway: GatewayProcess, solo: Solo, death: Step
) -> None:
    gate = Gate()
    solo.backend.script(Head(), Chunk(event("a")), Pass(gate), death)
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        head = wire.head()
        pieces = wire.pieces(head)
        got = wire.until(pieces, b"\n\n")
        gate.open()
        body = got + b"".join(pieces)
    assert expect.broken_stream(body, "upstream_error") == [event("a")[:-2]]


@pytest.mark.parametrize("cut", [1, 10, -2, -1])
def test_a_death_in_an_event_leaves_nothing_of_it(
    gateway: GatewayProcess, solo: Solo, cut: int
) -> None:
    gate = Gate()
    solo.backend.script(Head(), Chunk(event("a")), Chunk(event("b")[:cut]), Pass(gate), Die())
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        pieces = wire.pieces(wire.head())
        got = wire.until(pieces, b"\n\n")
        gate.open()
        body = got + b"".join(pieces)
    assert expect.broken_stream(body, "upstream_error") == [event("a")[:-2]]


def test_a_death_in_an_event_beyond_the_hold_is_set_apart_by_a_blank_line(
    gateway: GatewayProcess, solo: Solo
) -> None:
    big = event("x" * 200_000)
    body = streamed(gateway, solo, Chunk(event("a")), Chunk(big[:150_000]), Die())
    assert body.startswith(event("a") + big[:80_000])
    before = expect.broken_stream(body, "upstream_error")
    assert len(before) == 2
    assert big.startswith(before[1])


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_an_end_without_done_is_a_truncation(
    gateway: GatewayProcess, solo: Solo, path: str
) -> None:
    body = streamed(gateway, solo, Chunk(event("a")), LastChunk(), path=path)
    assert expect.broken_stream(body, "upstream_error") == [event("a")[:-2]]


@pytest.mark.parametrize("end", [LastChunk(), Die()], ids=["end", "FIN"])
@pytest.mark.parametrize("before", range(4))
def test_a_backend_s_own_error_event_is_the_only_one(
    gateway: GatewayProcess, solo: Solo, before: int, end: Step
) -> None:
    own = b'data: {"error":{"message":"the model fell over","type":"server_error","code":500}}\n\n'
    events = [event(f"{number}") for number in range(before)]
    body = streamed(gateway, solo, *map(Chunk, [*events, own]), end)
    assert body == b"".join([*events, own])


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_other_streams_end_without_done(gateway: GatewayProcess, solo: Solo, path: str) -> None:
    text = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    assert streamed(gateway, solo, Chunk(text), LastChunk(), path=path) == text


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_their_error_event_has_a_name(gateway: GatewayProcess, solo: Solo, path: str) -> None:
    text = b"event: ping\ndata: {}\n\n"
    body = streamed(gateway, solo, Chunk(text + b"event: pi"), Die(), path=path)
    assert expect.broken_stream(body, "upstream_error", named=True) == [text[:-2]]
    if path == "/v1/messages":
        told = json.loads(body.rpartition(b"data: ")[2])
        assert told["type"] == "error"


def test_a_stream_that_ends_with_the_connection_may_be_whole(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.script(Head(framing="Connection: close"), Send(event("a") + DONE), Die())
    expect.whole_stream(gateway.chat(solo.alias, stream=True).body)


def test_a_stream_that_ends_with_the_connection_and_no_done_is_cut(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.script(Head(framing="Connection: close"), Send(event("a")), Die())
    body = gateway.chat(solo.alias, stream=True).body
    assert expect.broken_stream(body, "upstream_error") == [event("a")[:-2]]


def test_a_broken_stream_leaves_a_usable_connection_or_says_so(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.script(Head(), Chunk(event("a")), Die())
    with gateway.connect() as wire:
        ask(wire, solo.alias)
        first = wire.reply()
        expect.broken_stream(first.body, "upstream_error")
        if (first.get("Connection") or "").lower() != "close":
            wire.request("GET", "/health")
            assert wire.reply().status == 200


def test_an_error_in_mid_stream_by_the_backend_itself_passes(
    gateway: GatewayProcess, solo: Solo
) -> None:
    own = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
    body = streamed(gateway, solo, Chunk(event("a") + own), Chunk(DONE), LastChunk())
    assert body == event("a") + own + DONE
