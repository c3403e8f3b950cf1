"""No request can hang for ever: `first_byte_s`, `idle_s`, and what the client sees of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config, Solo
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import Truncated
from tests.script import (
    DONE,
    Chunk,
    Head,
    LastChunk,
    Send,
    Stall,
    Step,
    completion,
    event,
)

SHORT = 0.6


@pytest.fixture(scope="module")
def patient() -> Iterator[FakeBackend]:
    with FakeBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def config(patient: FakeBackend) -> Config:
    return {
        "timeouts": {"connect_s": SHORT, "first_byte_s": SHORT, "idle_s": SHORT},
        "models": {
            "patient": {
                "type": "proxy",
                "proxy_url": patient.url,
                "timeouts": {"first_byte_s": 10, "idle_s": 10},
            }
        },
    }


BEFORE: dict[str, list[Step]] = {
    "no answer": [Stall()],
    "half a head": [Send(b"HTTP/1.1 200 OK\r\nContent-"), Stall()],
    "no first byte of a stream": [Head(), Stall()],
    "no first byte of a body": [Head(framing="Content-Length: 10"), Stall()],
    "interim answers only": [Send(b"HTTP/1.1 102 Processing\r\n\r\n" * 2), Stall()],
}


@pytest.mark.parametrize("steps", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("stream", [True, False])
def test_no_first_byte_in_time(
    gateway: GatewayProcess, solo: Solo, steps: list[Step], stream: bool
) -> None:
    solo.backend.script(*steps)
    began = time.monotonic()
    expect.error(gateway.chat(solo.alias, stream=stream), 504, "upstream_timeout")
    assert SHORT * 0.8 < time.monotonic() - began < SHORT * 2 + 1.2
    assert solo.backend.next().closed_within(1)


def test_silence_in_a_stream_ends_it_with_an_error_event(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.script(Head(), Chunk(event("a") + event("b")[:9]), Stall())
    began = time.monotonic()
    body = gateway.chat(solo.alias, stream=True).body
    assert expect.broken_stream(body, "upstream_timeout") == [event("a")[:-2]]
    assert SHORT * 0.8 < time.monotonic() - began < SHORT + 1.2
    assert solo.backend.next().closed_within(1)


def test_silence_in_a_plain_answer_cuts_it(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Head(content_type="application/json"), Chunk(b"{"), Stall())
    with gateway.connect(timeout_s=3) as wire:
        wire.request("POST", "/v1/chat/completions", body=chat_body(solo.alias))
        head = wire.head()
        with pytest.raises(Truncated):
            wire.body(head)
    assert solo.backend.next().closed_within(1)


def test_a_stream_that_goes_on_may_last(gateway: GatewayProcess, solo: Solo) -> None:
    steps: list[Step] = [Head()]
    for number in range(6):
        steps += [Chunk(event(str(number))), Stall(SHORT / 2)]
    solo.backend.script(*steps, Chunk(DONE), LastChunk())
    assert len(expect.whole_stream(gateway.chat(solo.alias, stream=True).body)) == 6


def test_comments_keep_a_stream_alive(gateway: GatewayProcess, solo: Solo) -> None:
    steps: list[Step] = [Head(), Chunk(event("a"))]
    for _ in range(5):
        steps += [Stall(SHORT / 2), Chunk(b":\n\n")]
    solo.backend.script(*steps, Chunk(DONE), LastChunk())
    assert gateway.chat(solo.alias, stream=True).body.endswith(DONE)


def test_a_model_may_have_more_patience(gateway: GatewayProcess, patient: FakeBackend) -> None:
    patient.script(
        Stall(SHORT * 2), Head(), Chunk(event("a")), Stall(SHORT * 2), Chunk(DONE), LastChunk()
    )
    expect.whole_stream(gateway.chat("patient", stream=True).body)
    assert gateway.chat("patient").json() == completion()


def test_the_log_says_what_happened(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Stall())
    line = gateway.request_line(gateway.chat(solo.alias))
    assert (line["status"], line["outcome"]) == (504, "upstream_error")
    solo.backend.script(Head(), Chunk(event("a")), Stall())
    line = gateway.request_line(gateway.chat(solo.alias, stream=True))
    assert (line["status"], line["outcome"]) == (200, "truncated")
