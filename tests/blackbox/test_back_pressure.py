"""A client that stops reading: its backend is paused, and the gateway holds next to nothing."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.blackbox.conftest import Solo
from tests.fake_backend import Received
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.script import DONE, Chunk, Flood, Head, LastChunk, event

PATH = "/v1/chat/completions"
PIECE = event("x" * 30_000)
TIMES = 2000  # 60 MB a stream
CLIENTS = 20
HELD_BYTES = 262_144


def settled(received: Received) -> int:
    """How much the backend could send before it was paused."""
    last = -1
    until = time.monotonic() + 20
    while received.sent != last:
        assert time.monotonic() < until, "never paused"
        last = received.sent
        time.sleep(0.3)
    return last


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_twenty_clients_that_stop_reading_cost_little(
    gateway: GatewayProcess, solo: Solo, content_type: str
) -> None:
    solo.backend.otherwise(Head(content_type=content_type), Flood(PIECE, TIMES), LastChunk())
    gateway.get("/health")
    before = gateway.resident_bytes()
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            wire = stack.enter_context(gateway.connect(receive_buffer=16_384))
            wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        received = [solo.backend.next(timeout_s=20) for _ in range(CLIENTS)]
        sent = [settled(each) for each in received]
        grown = gateway.resident_bytes() - before
        assert max(sent) < len(PIECE) * TIMES / 2
        assert grown < CLIENTS * HELD_BYTES + 4_000_000
        began = time.monotonic()
        assert gateway.get("/health").status == 200
        assert time.monotonic() - began < 1
    for each in received:
        assert each.closed_within(2)


def test_a_client_that_reads_on_gets_everything(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Head(), Flood(PIECE, 300), Chunk(DONE), LastChunk())
    with gateway.connect(receive_buffer=16_384) as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        settled(solo.backend.next())
        head = wire.head()
        assert wire.body(head) == PIECE * 300 + DONE


def test_a_slow_reader_does_not_slow_others(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Head(), Flood(PIECE, TIMES), LastChunk())
    with gateway.connect(receive_buffer=16_384) as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        settled(solo.backend.next())
        began = time.monotonic()
        for _ in range(20):
            assert gateway.chat(solo.alias, stream=True).status == 200
        assert time.monotonic() - began < 3
    eventually(lambda: gateway.metric("requests_in_flight", alias=solo.alias) == 0)


def test_a_paused_backend_that_dies_is_noticed_when_the_client_reads_on(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.script(Head(), Flood(PIECE, TIMES), LastChunk())
    with gateway.connect(receive_buffer=16_384) as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        received = solo.backend.next()
        settled(received)
        solo.backend.drop_connections()
        body = wire.body(wire.head())
        assert b"[DONE]" not in body
        assert b'"error"' in body[-1000:]


def test_a_large_upload_does_not_pile_up_per_request(gateway: GatewayProcess, solo: Solo) -> None:
    """A body is held once: it must be there whole before it can be routed."""
    body = chat_body(solo.alias, x="x" * 20_000_000)
    gateway.post(PATH, body)
    before = gateway.resident_bytes()
    for _ in range(5):
        assert gateway.post(PATH, body).status == 200
    assert gateway.resident_bytes() - before < 3 * len(body)
