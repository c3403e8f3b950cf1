"""The end of a gateway: requests in flight finish or are told, and a second signal is final."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.blackbox import expect
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.rawhttp import RawClient, Truncated, request_bytes
from tests.script import DONE, Answer, Chunk, Gate, Head, LastChunk, Pass, Stall, completion, event

PATH = "/v1/chat/completions"
DRAIN_S = 1.0


@pytest.fixture
def draining(tmp_path: Path, backend: FakeBackend) -> Iterator[GatewayProcess]:
    config = {
        "gateway": {"drain_timeout_s": DRAIN_S},
        "models": {"writer": {"type": "proxy", "proxy_url": backend.url}},
    }
    with GatewayProcess(config, tmp_path) as gateway:
        yield gateway


def begin(gateway: GatewayProcess, backend: FakeBackend, *steps: object) -> RawClient:
    """A stream whose first event has arrived."""
    wire = gateway.connect()
    wire.request("POST", PATH, body=chat_body("writer", stream=True))
    return wire


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_gateway_ends_at_once(draining: GatewayProcess, number: signal.Signals) -> None:
    with draining.connect() as kept:
        kept.request("GET", "/health")
        kept.reply()
        began = time.monotonic()
        draining.stop(number)
        assert time.monotonic() - began < DRAIN_S + 0.5


def test_what_is_in_flight_finishes(draining: GatewayProcess, backend: FakeBackend) -> None:
    gate = Gate()
    backend.script(Head(), Chunk(event("a")), Pass(gate), Chunk(event("b") + DONE), LastChunk())
    with begin(draining, backend) as wire:
        pieces = wire.pieces(wire.head())
        got = wire.until(pieces, b"\n\n")
        draining.signal(signal.SIGTERM)
        time.sleep(0.2)
        gate.open()
        assert len(expect.whole_stream(got + b"".join(pieces))) == 2
        began = time.monotonic()
        draining.stop()
        assert time.monotonic() - began < DRAIN_S


def test_what_waits_for_its_answer_finishes_too(
    draining: GatewayProcess, backend: FakeBackend
) -> None:
    backend.script(Stall(0.4), Answer.json(completion("late")))
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(draining.chat, "writer")
        backend.next()
        draining.signal(signal.SIGTERM)
        assert held.result(5).json() == completion("late")


def test_nothing_new_is_let_in(draining: GatewayProcess, backend: FakeBackend) -> None:
    gate = Gate()
    backend.script(Head(), Chunk(event("a")), Pass(gate), Chunk(DONE), LastChunk())
    with begin(draining, backend) as wire, draining.connect() as kept:
        kept.request("GET", "/health")
        kept.reply()
        pieces = wire.pieces(wire.head())
        got = wire.until(pieces, b"\n\n")
        draining.signal(signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            draining.connect()
        # On a connection that was there before: an honest answer, or none.
        try:
            kept.send(request_bytes("POST", PATH, body=chat_body("writer")))
            expect.error(kept.reply(), 503, "shutting_down")
        except (ConnectionError, Truncated):
            pass
        gate.open()
        expect.whole_stream(got + b"".join(pieces))
    assert len(backend.received) == 1


def test_a_stream_that_will_not_end_is_ended_with_an_error_event(
    draining: GatewayProcess, backend: FakeBackend
) -> None:
    backend.script(Head(), Chunk(event("a") + event("b")[:10]), Stall())
    with begin(draining, backend) as wire:
        pieces = wire.pieces(wire.head())
        got = wire.until(pieces, b"\n\n")
        received = backend.next()
        began = time.monotonic()
        draining.signal(signal.SIGTERM)
        body = got + b"".join(pieces)
        assert DRAIN_S * 0.8 < time.monotonic() - began < DRAIN_S + 2
        assert expect.broken_stream(body, "shutting_down") == [event("a")[:-2]]
        assert received.closed_within(1)


def test_an_answer_that_has_not_begun_is_told(
    draining: GatewayProcess, backend: FakeBackend
) -> None:
    backend.script(Stall())
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(draining.chat, "writer")
        received = backend.next()
        draining.signal(signal.SIGTERM)
        expect.error(held.result(5), 503, "shutting_down")
        assert received.closed_within(1)


def test_a_second_signal_ends_at_once(tmp_path: Path, backend: FakeBackend) -> None:
    config = {
        "gateway": {"drain_timeout_s": 60},
        "models": {"writer": {"type": "proxy", "proxy_url": backend.url}},
    }
    gateway = GatewayProcess(config, tmp_path)
    gateway.start()
    backend.script(Head(), Chunk(event("a")), Stall())
    with begin(gateway, backend) as wire:
        wire.until(wire.pieces(wire.head()), b"\n\n")
        gateway.signal(signal.SIGTERM)
        time.sleep(0.3)
        assert gateway.process.poll() is None
        began = time.monotonic()
        gateway.stop(signal.SIGINT, expect=130)
        assert time.monotonic() - began < 2
    assert backend.next().closed_within(1)


def test_a_silent_client_does_not_hold_up_the_end(
    draining: GatewayProcess, backend: FakeBackend
) -> None:
    with draining.connect() as wire:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        time.sleep(0.1)
        began = time.monotonic()
        draining.stop()
        assert time.monotonic() - began < DRAIN_S + 2


def test_clients_and_backends_are_let_go(draining: GatewayProcess, backend: FakeBackend) -> None:
    assert draining.chat("writer").status == 200
    draining.stop()
    eventually(lambda: backend.open_connections == 0, 1)


def test_state_that_was_just_told_is_written(draining: GatewayProcess) -> None:
    node = {"node_id": "last-minute", "base_url": "http://127.0.0.1:9", "roles": ["r"]}
    assert draining.post("/v1/nodes/register", node).status == 200
    draining.stop()
    assert "last-minute" in draining.state_path.read_text()
