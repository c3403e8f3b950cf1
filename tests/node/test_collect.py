"""A stream collected out of an exchange: nothing on the way, all of it at the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from rolemesh.core.failover import Failure
from rolemesh.core.types import Backend, BaseUrl, Timeouts
from rolemesh.errors import UpstreamError
from rolemesh.node.collect import collect
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.proxy.pool import Pools
from rolemesh.wire.body import parse
from rolemesh.wire.http1 import chunk, request_head
from rolemesh.wire.streamable import CHAT, COMPLETIONS, as_stream
from tests.llama import LlamaServer, hello, until
from tests.proxy.recording import RecordedConnection

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Keep-Alive: timeout=5, max=100\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"
SOON_S = 1.0  # the answer asked for would take 16 s


def event(text: str, **more: Any) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


class Child:
    """An exchange with a child whose bytes a test sends."""

    def __init__(self) -> None:
        self.connection = RecordedConnection()
        self.exchange = Exchange(
            self.connection,  # type: ignore[arg-type]
            Timeouts(),
            asyncio.get_running_loop(),
        )

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.exchange.feed(memoryview(piece))

    async def collected(self) -> tuple[int, Any]:
        answer = await collect(self.exchange, COMPLETIONS)
        return answer.status, json.loads(answer.body)


def text_of(answer: tuple[int, Any]) -> str:
    status, body = answer
    assert status == 200
    text: str = body["choices"][0]["text"]
    return text


async def test_an_answer_that_came_at_once_is_collected() -> None:
    child = Child()
    child.send(HEAD + chunk(event("a") + event("b")) + chunk(DONE) + LAST)
    assert text_of(await child.collected()) == "ab"
    assert child.connection.kept


async def test_chunks_that_come_later_are_collected_however_they_are_cut() -> None:
    child = Child()
    child.send(HEAD + chunk(event("a")))
    waiting = asyncio.create_task(child.collected())
    await asyncio.sleep(0)
    half = len(event("c")) // 2
    pieces = [event("b"), event("c")[:half], event("c")[half:] + event("d"), b":\n\n"]
    child.send(*map(chunk, pieces), chunk(event("x" * 100_000)), chunk(event("e")))
    assert not waiting.done()
    assert not child.connection.paused
    child.send(chunk(DONE), LAST)
    assert text_of(await waiting) == "abcd" + "x" * 100_000 + "e"
    assert child.connection.kept


async def test_an_error_event_is_the_childs_answer() -> None:
    child = Child()
    error = {"code": 500, "message": "Compute error.", "type": "server_error"}
    child.send(HEAD + chunk(event("a")))
    child.send(chunk(b"data: " + json.dumps({"error": error}).encode() + b"\n\n"), LAST)
    assert await child.collected() == (500, {"error": error})


async def test_a_stream_that_ends_too_early_is_an_upstream_error() -> None:
    child = Child()
    child.send(HEAD + chunk(event("a")) + LAST)
    with pytest.raises(UpstreamError, match="ended too early"):
        await child.collected()


async def test_a_child_that_dies_in_mid_answer_is_broken() -> None:
    child = Child()
    child.send(HEAD + chunk(event("a")))
    waiting = asyncio.create_task(child.collected())
    await asyncio.sleep(0)
    child.exchange.lost(orderly=False)
    with pytest.raises(Broken) as broken:
        await waiting
    assert broken.value.failure is Failure.CUT


@pytest.mark.parametrize("goes_on", [b":\n\n", b"data: {{{\n\n", b"x" * 100])
async def test_what_is_decided_is_told_though_the_stream_goes_on(goes_on: bytes) -> None:
    child = Child()
    child.send(HEAD + chunk(event("a")) + chunk(DONE))
    waiting = asyncio.create_task(child.collected())
    async with asyncio.timeout(5):
        while not waiting.done():
            child.send(chunk(goes_on))
            await asyncio.sleep(0.01)
    assert text_of(waiting.result()) == "a"
    assert not child.connection.kept


async def test_an_error_event_is_told_though_the_child_is_lost_behind_it() -> None:
    child = Child()
    child.send(HEAD)
    waiting = asyncio.create_task(child.collected())
    await asyncio.sleep(0)
    child.send(chunk(b'data: {"error":{"code":503}}\n\n'))
    child.exchange.lost(orderly=False)
    assert await waiting == (503, {"error": {"code": 503}})


async def test_what_cannot_be_read_is_an_error_though_the_stream_goes_on() -> None:
    child = Child()
    child.send(HEAD + chunk(b"data: {{{\n\n") + chunk(b":\n\n"))
    async with asyncio.timeout(5):
        with pytest.raises(UpstreamError, match="cannot be read"):
            await child.collected()


async def test_the_end_of_a_stream_just_behind_its_answer_keeps_the_connection() -> None:
    child = Child()
    child.send(HEAD + chunk(event("a")))
    waiting = asyncio.create_task(child.collected())
    await asyncio.sleep(0)
    child.send(chunk(DONE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    child.send(LAST)
    assert text_of(await waiting) == "a"
    assert child.connection.kept


async def test_whoever_leaves_frees_the_slot_of_a_real_child(slow_llama: LlamaServer) -> None:
    """Of a call that is not streamed llama-server notices nothing, and goes on to its end."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, until, lambda: slow_llama.busy_slots() == 0, "it is idle")
    pools = Pools(loop)
    body = as_stream(parse(json.dumps({"messages": hello(), "max_tokens": 1000}).encode()))
    backend = Backend("slow", "slow", BaseUrl("http", "127.0.0.1", slow_llama.port))
    head = request_head("POST", CHAT, backend.url.authority, [], len(body))

    async def ask() -> None:
        exchange = await pools.open(backend, [head, body], Timeouts())
        try:
            await collect(exchange, CHAT)
        finally:
            pools.release(exchange)

    asking = asyncio.create_task(ask())
    try:
        await loop.run_in_executor(None, until, lambda: slow_llama.busy_slots() == 1, "it is busy")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        free = (lambda: slow_llama.busy_slots() == 0, "the slot is free", SOON_S)
        await loop.run_in_executor(None, until, *free)
    finally:
        pools.close()
