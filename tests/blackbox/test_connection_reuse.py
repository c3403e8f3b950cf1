"""Kept connections to backends: used again, given up, and what happens when one is lost."""

from __future__ import annotations

import time

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Pair, Solo
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import request_bytes
from tests.script import (
    Answer,
    Chunk,
    Die,
    Head,
    LastChunk,
    Send,
    Stall,
    Step,
    Stream,
    event,
)

PATH = "/v1/chat/completions"


def warm(gateway: GatewayProcess, alias: str, backend: FakeBackend) -> None:
    """Leave an idle connection to the backend in the gateway's pool."""
    assert gateway.chat(alias).status == 200
    backend.next()


def test_connections_are_used_again(gateway: GatewayProcess, solo: Solo) -> None:
    for _ in range(3):
        warm(gateway, solo.alias, solo.backend)
    used = [link.requests for link in solo.backend.connections if link.requests > 1]
    assert used == [3] or sum(used) >= 3


@pytest.mark.parametrize("death", [Die(), Die(reset=True)], ids=["FIN", "RST"])
def test_a_reused_connection_that_is_lost_is_tried_again_on_the_same_backend(
    gateway: GatewayProcess, pair: Pair, death: Step
) -> None:
    """Its keep-alive ran out just then: no fault of the backend's."""
    warm(gateway, pair.alias, pair.first)
    pair.first.script(death)
    pair.first.script(Answer.json({"from": "first"}))
    assert gateway.chat(pair.alias).json() == {"from": "first"}
    lost, again = pair.first.next(), pair.first.next()
    assert lost.body == again.body
    assert lost.connection.number != again.connection.number
    assert again.connection.requests == 1
    assert pair.second.none_came(0.02)


def test_that_is_done_once_only(gateway: GatewayProcess, pair: Pair) -> None:
    warm(gateway, pair.alias, pair.first)
    pair.first.otherwise(Die())
    assert gateway.chat(pair.alias).status == 200
    pair.first.next()
    pair.first.next()
    assert pair.first.none_came(0.02)
    pair.second.next()


def test_a_reused_connection_lost_in_mid_answer_is_not(gateway: GatewayProcess, pair: Pair) -> None:
    """A byte of the head has come: the next backend's turn."""
    warm(gateway, pair.alias, pair.first)
    pair.first.otherwise(Send(b"HTTP/1.1 200 OK\r\n"), Die())
    assert gateway.chat(pair.alias).status == 200
    pair.first.next()
    assert pair.first.none_came(0.02)
    pair.second.next()


def test_a_backend_that_closed_while_idle_is_connected_to_anew(
    gateway: GatewayProcess, solo: Solo
) -> None:
    warm(gateway, solo.alias, solo.backend)
    solo.backend.drop_connections()
    warm(gateway, solo.alias, solo.backend)


def test_a_backend_that_says_close_is_connected_to_anew(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.otherwise(Answer.json({}, headers=[("Connection", "close")]))
    for _ in range(2):
        warm(gateway, solo.alias, solo.backend)
    assert all(link.requests <= 1 for link in solo.backend.connections)


def test_a_refused_backend_is_used_again_when_it_is_back(
    gateway: GatewayProcess, pair: Pair
) -> None:
    port = pair.first.port
    pair.first.stop()
    assert gateway.chat(pair.alias).status == 200
    pair.first.start(port)
    time.sleep(2.2)
    pair.first.script(Answer.json({"from": "first"}))
    assert gateway.chat(pair.alias).json() == {"from": "first"}


def test_one_client_connection_may_go_to_several_backends(
    gateway: GatewayProcess, pair: Pair, solo: Solo
) -> None:
    pair.first.script(Stream((event("a"),)))
    with gateway.connect() as wire:
        for alias in (pair.alias, solo.alias, pair.alias):
            wire.send(request_bytes("POST", PATH, body=chat_body(alias)))
            assert wire.reply().status == 200


def test_a_stream_whose_chunks_begin_late_fails_over_too(
    gateway: GatewayProcess, pair: Pair
) -> None:
    pair.first.script(Head(), Stall(0.1), Die())
    pair.second.script(Head(), Stall(0.1), Chunk(event("b") + b"data: [DONE]\n\n"), LastChunk())
    body = gateway.chat(pair.alias, stream=True).body
    assert expect.whole_stream(body) == [event("b")[:-2]]
