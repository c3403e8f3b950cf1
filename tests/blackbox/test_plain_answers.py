"""Answers that are no stream: passed on as they came, or cut so that the client can tell."""

from __future__ import annotations

import time

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Solo
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import Truncated
from tests.script import (
    Answer,
    Chunk,
    Die,
    Head,
    LastChunk,
    Send,
    Stream,
    completion,
    event,
)

PATH = "/v1/chat/completions"


def test_an_answer_that_is_no_stream_is_cut(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"),
        Die(),
    )
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias))
        head = wire.head()
        with pytest.raises(Truncated):
            wire.body(head)


def test_an_answer_in_chunks_that_is_no_stream_is_cut(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Head(content_type="application/json"), Chunk(b'{"a":'), Die())
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body(solo.alias))
        head = wire.head()
        with pytest.raises(Truncated):
            wire.body(head)


def test_a_plain_answer_passes_unchanged(gateway: GatewayProcess, solo: Solo) -> None:
    odd = b'{ "choices" : [ ] , "x" : 1.10 }\n'
    solo.backend.script(Answer.data(odd, content_type="application/json; charset=utf-8"))
    reply = gateway.chat(solo.alias)
    assert (reply.body, reply.get("Content-Length")) == (odd, str(len(odd)))
    assert reply.get("Content-Type") == "application/json; charset=utf-8"


def test_a_plain_answer_to_a_wish_for_a_stream_passes(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Answer.json(completion()))
    assert gateway.chat(solo.alias, stream=True).json() == completion()


def test_an_answer_without_a_length_passes_whole(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"), Send(b"}"), Die()
    )
    assert gateway.chat(solo.alias).body == b"{}"


def test_an_answer_in_chunks_passes_whole(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(
        Head(content_type="application/json"), Chunk(b'{"a":'), Chunk(b"1}"), LastChunk()
    )
    assert gateway.chat(solo.alias).json() == {"a": 1}


def test_an_answer_of_no_content_passes(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Send(b"HTTP/1.1 204 No Content\r\n\r\n"))
    with gateway.connect() as wire:
        for _ in range(2):
            wire.request("POST", PATH, body=chat_body(solo.alias))
            reply = wire.reply()
            assert reply.status in (204, 200)


def test_an_empty_answer_passes(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Answer.data(b"", content_type=None))
    reply = gateway.chat(solo.alias)
    assert (reply.status, reply.body) == (200, b"")


def test_a_large_answer_passes_whole(gateway: GatewayProcess, solo: Solo) -> None:
    body = b"x" * 20_000_000
    solo.backend.script(Answer.data(body, content_type="application/octet-stream"))
    assert gateway.chat(solo.alias).body == body


@pytest.mark.parametrize("status", [400, 404, 408, 413, 422, 500, 501, 504])
@pytest.mark.parametrize("stream", [True, False])
def test_a_backends_own_error_passes_unchanged(
    gateway: GatewayProcess, solo: Solo, status: int, stream: bool
) -> None:
    own = b'{"error": {"message": "its own words", "odd": [1]}}'
    solo.backend.script(Answer.data(own, status, headers=[("X-Why", "because")]))
    reply = gateway.chat(solo.alias, stream=stream)
    assert (reply.status, reply.body, reply.get("X-Why")) == (status, own, "because")
    expect.upstreams_own(reply)


def test_events_are_not_delayed(gateway: GatewayProcess, solo: Solo) -> None:
    """200 events 2 ms apart: the last arrives when it was sent, not later."""
    stamps = tuple(event(str(n)) for n in range(200))
    solo.backend.script(Stream(stamps, gap_s=0.002))
    began = time.monotonic()
    assert len(expect.whole_stream(gateway.chat(solo.alias, stream=True).body)) == 200
    assert time.monotonic() - began < 3
