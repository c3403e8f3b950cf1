"""A client that goes away, in any phase: its upstream connection is closed at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from tests.blackbox.conftest import Config, Pair, Solo
from tests.dead_ports import SilentPort
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.rawhttp import RawClient
from tests.script import DONE, Chunk, Gate, Head, LastChunk, Pass, Slowly, Stall, Step, event

PATH = "/v1/chat/completions"
AT_ONCE_S = 1.0


@pytest.fixture(scope="module")
def silent() -> Iterator[SilentPort]:
    port = SilentPort()
    yield port
    port.close()


@pytest.fixture(scope="module")
def narrow() -> Iterator[FakeBackend]:
    with FakeBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def config(silent: SilentPort, narrow: FakeBackend) -> Config:
    return {
        "timeouts": {"connect_s": 30},
        "models": {
            "silent": {"type": "proxy", "proxy_url": silent.url},
            "narrow": {"type": "proxy", "proxy_url": narrow.url, "max_in_flight": 1},
        },
    }


WAYS: dict[str, Callable[[RawClient], None]] = {"FIN": RawClient.close, "RST": RawClient.reset}
ways = pytest.mark.parametrize("leave", WAYS.values(), ids=WAYS)

PHASES: dict[str, list[Step]] = {
    "before the head": [Stall()],
    "between head and body": [Head(), Stall()],
    "in the first event": [Head(), Chunk(b"data: {"), Stall()],
}


@ways
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("steps", PHASES.values(), ids=PHASES)
def test_while_the_answer_has_not_begun(
    gateway: GatewayProcess,
    pair: Pair,
    steps: list[Step],
    stream: bool,
    leave: Callable[[RawClient], None],
) -> None:
    pair.first.script(*steps)
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body(pair.alias, stream=stream))
        received = pair.first.next()
        time.sleep(0.05)
        assert not received.connection.closed.is_set()
        leave(wire)
        assert received.closed_within(AT_ONCE_S)
    assert pair.second.none_came(0.05)
    eventually(lambda: gateway.metric("requests_in_flight", alias=pair.alias) == 0)


@ways
@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_in_mid_answer(
    gateway: GatewayProcess, solo: Solo, content_type: str, leave: Callable[[RawClient], None]
) -> None:
    solo.backend.script(Head(content_type=content_type), Chunk(event("a")), Stall())
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        next(wire.pieces(wire.head()))
        received = solo.backend.next()
        leave(wire)
        assert received.closed_within(AT_ONCE_S)


@ways
def test_while_events_are_flowing(
    gateway: GatewayProcess, solo: Solo, leave: Callable[[RawClient], None]
) -> None:
    solo.backend.script(
        Head(), *[step for _ in range(2000) for step in (Chunk(event("a")), Stall(0.005))]
    )
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        pieces = wire.pieces(wire.head())
        for _ in range(5):
            next(pieces)
        leave(wire)
        assert solo.backend.next().closed_within(AT_ONCE_S)


@ways
def test_while_it_waits_in_the_queue(
    gateway: GatewayProcess, narrow: FakeBackend, leave: Callable[[RawClient], None]
) -> None:
    gate = Gate()
    narrow.script(Head(), Chunk(event("a")), Pass(gate), Chunk(DONE), LastChunk())
    body = chat_body("narrow", stream=True)
    with gateway.connect() as first, gateway.connect() as second, gateway.connect() as third:
        first.request("POST", PATH, body=body)
        narrow.next()
        second.request("POST", PATH, [("X-Request-ID", "the-second")], body)
        third.request("POST", PATH, [("X-Request-ID", "the-third")], body)
        eventually(lambda: gateway.metric("requests_in_flight", alias="narrow") == 3)
        leave(second)
        eventually(lambda: gateway.metric("requests_in_flight", alias="narrow") == 2)
        gate.open()
        assert third.reply().status == 200
        narrow.next()
        assert narrow.none_came(0.05)
        line = gateway.wait_line(lambda line: line.get("request_id") == "the-second")
        assert line["outcome"] == "client_abort"


@ways
def test_while_a_connection_is_being_made(
    gateway: GatewayProcess, leave: Callable[[RawClient], None]
) -> None:
    before = gateway.metric("cancelled_total")
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body("silent"))
        eventually(lambda: gateway.metric("requests_in_flight", alias="silent") == 1)
        leave(wire)
        eventually(lambda: gateway.metric("requests_in_flight", alias="silent") == 0, AT_ONCE_S)
    assert gateway.metric("cancelled_total") == before + 1


@ways
def test_while_it_uploads(
    gateway: GatewayProcess, solo: Solo, leave: Callable[[RawClient], None]
) -> None:
    descriptors = gateway.open_descriptors()
    with gateway.connect() as wire:
        wire.request("POST", PATH, [("Content-Length", "1000000")])
        wire.send(b'{"model": "' + solo.alias.encode() + b'", "x": "' + b"x" * 100_000)
        time.sleep(0.1)
        leave(wire)
    eventually(lambda: gateway.open_descriptors() <= descriptors, AT_ONCE_S)
    assert all(received.closed_within(AT_ONCE_S) for received in solo.backend.received)


def test_while_the_backend_reads_the_request_slowly(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Stall(0.5), Stall(), early=True)
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias, x="x" * 20_000_000))
        received = solo.backend.next(whole=False)
        wire.close()
    eventually(lambda: gateway.metric("requests_in_flight", alias=solo.alias) == 0)
    solo.backend.drop_connections()
    assert received.closed_within(AT_ONCE_S)


def test_between_two_requests_nothing_is_disturbed(gateway: GatewayProcess, solo: Solo) -> None:
    for _ in range(3):
        assert gateway.chat(solo.alias).status == 200
    assert not any(link.closed.is_set() for link in solo.backend.connections)


def test_half_a_farewell_is_one(gateway: GatewayProcess, solo: Solo) -> None:
    """A client that closes its side has gone, as it has for llama-server; or it gets its answer.
    Either way nothing is left hanging."""
    solo.backend.script(
        Stall(0.3), Head(), Chunk(event("a")), Slowly(b"5\r\n:\n\n\r\n" * 100, 1, 0.01)
    )
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        received = solo.backend.next()
        wire.socket.shutdown(1)
        assert received.closed_within(20)


def test_it_is_counted_and_logged(gateway: GatewayProcess, solo: Solo) -> None:
    before = gateway.metric("cancelled_total")
    solo.backend.script(Head(), Chunk(event("a")), Stall())
    with gateway.connect() as wire:
        headers = [("X-Request-ID", "who-leaves")]
        wire.request("POST", PATH, headers, chat_body(solo.alias, stream=True))
        next(wire.pieces(wire.head()))
    line = gateway.wait_line(lambda line: line.get("request_id") == "who-leaves")
    assert line["outcome"] == "client_abort"
    assert gateway.metric("cancelled_total") == before + 1
    assert gateway.metric("requests_total", alias=solo.alias, outcome="client_abort") == 1


def test_many_clients_that_leave_leave_nothing_behind(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.otherwise(Head(), Chunk(event("a")), Stall())
    descriptors = gateway.open_descriptors()
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(gateway.connect()) for _ in range(50)]
        for wire in wires:
            wire.request("POST", PATH, body=chat_body(solo.alias, stream=True))
        for wire in wires:
            next(wire.pieces(wire.head()))
        for number, wire in enumerate(wires):
            (wire.reset if number % 2 else wire.close)()
    eventually(lambda: solo.backend.open_connections == 0, AT_ONCE_S)
    eventually(lambda: gateway.open_descriptors() <= descriptors, AT_ONCE_S)
    assert gateway.metric("requests_in_flight", alias=solo.alias) == 0
