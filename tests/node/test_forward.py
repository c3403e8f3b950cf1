"""The path of a model request through a node, with a supervisor and a child of a few bytes each."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any, cast

import pytest
from attrs import evolve

from rolemesh.config.schema_node import ModelSection, NodeFile
from rolemesh.core import placement
from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.lifecycle import Child
from rolemesh.core.types import Backend, BaseUrl
from rolemesh.errors import (
    InvalidValue,
    ModelNotFound,
    NoAvailableBackend,
    RoleMeshError,
    ShuttingDown,
    UnsupportedMediaType,
    UpstreamError,
    UpstreamTimeout,
)
from rolemesh.node import forward
from rolemesh.node.charge import Charge
from rolemesh.node.forward import Forward
from rolemesh.node.live import live_of
from rolemesh.node.run import Run
from rolemesh.node.supervisor import Supervisor
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.server.inbound import Inbound
from rolemesh.server.metrics import Metrics
from tests.gateway.received import Received, Taken, inbound
from tests.gateway.scripted import END, REFUSED, ScriptedPools, answer, stream

CHAT = "/v1/chat/completions"
COMMENT = b":\n\n"
DONE = b"data: [DONE]\n\n"
TIMED_OUT = Broken(Failure.FIRST_BYTE_TIMEOUT, Reason.FIRST_BYTE_TIMEOUT, "no first byte")
NO_ROOM = Broken(Failure.CONNECT, Reason.NO_DESCRIPTORS, "no descriptor is free")
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"Hi."},"finish_reason":"stop"}]}\n\n'
REFUSAL = b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}'


class ScriptedRun:
    backend = Backend("a", "a", BaseUrl("http", "127.0.0.1", 9), ("Authorization", "Bearer k"))


class ScriptedSupervisor:
    """One model, `a`. `loaded` is done, or fails, when it is ready; `held` counts what was taken
    and not given back, and `worked` is what was told then."""

    def __init__(self) -> None:
        section = ModelSection(model_id="a", path="/a.gguf", roles=())
        self.charge = Charge(section, placement.Model("a"), Child())
        self.charge.run = cast(Run, ScriptedRun())
        self.charges = {"a": self.charge}
        self.loaded: asyncio.Future[None] | None = None
        self.held = self.waiting = 0
        self.worked: list[bool | None] = []

    def find(self, model_id: str) -> Charge:
        if model_id != "a":
            raise ModelNotFound("no such model", param="model")
        return self.charge

    def take(self, charge: Charge) -> bool:
        if self.loaded is None:
            self.held += 1
        return self.loaded is None

    async def acquire(self, charge: Charge, wait_s: float) -> None:
        assert self.loaded is not None
        self.waiting += 1
        try:
            if self.loaded.done():
                raise NoAvailableBackend("it failed")
            await asyncio.shield(self.loaded)
        finally:
            self.waiting -= 1
        self.held += 1

    def release(self, charge: Charge, *, worked: bool | None) -> None:
        self.held -= 1
        self.worked.append(worked)


class LettingPools(ScriptedPools):
    """They part with an exchange as the real ones do."""

    def release(self, exchange: Exchange) -> None:
        super().release(exchange)
        exchange.let_go()


class House:
    """A node's conductor and everything around it that it changes."""

    def __init__(self, comment_s: float = 60.0) -> None:
        self.pools = LettingPools()
        self.supervisor = ScriptedSupervisor()
        self.drained = False
        self.live = live_of(NodeFile(), "box", "t0ken")
        self.metrics = Metrics()
        self.forward = Forward(
            lambda: self.live,
            cast(Supervisor, self.supervisor),
            self.pools.as_pools(),
            self.metrics,
            lambda: self.drained,
            comment_s,
        )

    def play(self, *plays: bytes | Broken | tuple[bytes] | None) -> None:
        self.pools.plays["a"] += plays

    def load(self) -> asyncio.Future[None]:
        """From now on requests wait, until the future is done."""
        self.supervisor.loaded = asyncio.get_running_loop().create_future()
        return self.supervisor.loaded

    async def ask(self, path: str = CHAT, **fields: Any) -> Inbound:
        body = {"model": "a", "messages": [], **fields}
        return await self.serve(made(path, body))

    async def serve(self, one: Inbound) -> Inbound:
        try:
            await self.forward.serve(one)
        finally:
            assert not self.pools.open_exchanges
            assert self.supervisor.held == 0
        return one

    async def failure(self, *plays: bytes | Broken | tuple[bytes] | None) -> RoleMeshError:
        self.play(*plays)
        with pytest.raises(RoleMeshError) as raised:
            await self.ask()
        return raised.value


def made(path: str, body: Any, *fields: tuple[str, str]) -> Inbound:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return inbound(Received(("Host", "localhost"), *fields, method="POST", path=path, body=data))


def client(one: Inbound) -> Taken:
    return cast(Taken, one.downstream)


@pytest.fixture
async def house() -> House:
    return House()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# What the child is asked, and what comes of it


async def test_a_chat_is_asked_for_as_a_stream_and_answered_whole(house: House) -> None:
    house.play(stream(PIECE, DONE) + END)
    one = await house.ask(max_tokens=3)
    asked = json.loads(house.pools.requests[0][2])
    assert asked["stream"] is True
    assert asked["stream_options"] == {"include_usage": True}
    assert asked["max_tokens"] == 3
    told = json.loads(client(one).written)
    assert told["choices"][0]["message"]["content"] == "Hi."
    assert client(one).status == 200
    assert client(one).length == len(client(one).written)
    assert (b"X-RoleMesh-Node", b"box") in client(one).headers
    assert (b"X-RoleMesh-Model", b"a") in client(one).headers
    assert house.supervisor.worked == [True]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"stream": True}),
        (CHAT, {"n": 2}),
        (CHAT, {"logprobs": True}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {}),
        ("/v1/messages/count_tokens", {}),
    ],
)
async def test_anything_else_goes_through_as_it_came(
    house: House, path: str, fields: dict[str, Any]
) -> None:
    house.play(answer(fields=b"Content-Type: application/json\r\nServer: llama.cpp\r\n"))
    body = json.dumps({"model": "a", "odd": [1.50, "\u00e9"], **fields}).encode()
    one = await house.serve(made(path, body))
    assert house.pools.requests[0][2] == body
    assert client(one).written == b"{}"
    assert (b"Server", b"llama.cpp") in client(one).headers


async def test_only_what_the_child_needs_reaches_it(house: House) -> None:
    house.play(answer())
    await house.serve(
        made(
            "/v1/embeddings",
            {"model": "a"},
            ("Authorization", "Bearer t0ken"),
            ("X-Conversation-Id", "7"),
            ("Cookie", "c=1"),
        )
    )
    assert house.pools.head() == [
        "POST /v1/embeddings HTTP/1.1",
        "Host: 127.0.0.1:9",
        "Content-Type: application/json",
        "Accept-Encoding: identity",
        "Via: 1.1 rolemesh-node",
        "Authorization: Bearer k",
        "X-Request-ID: request-1",
        "Content-Length: 14",
    ]


async def test_a_refusal_of_the_child_passes_through(house: House) -> None:
    house.play(answer(400, REFUSAL))
    one = await house.ask()
    assert (client(one).status, client(one).written) == (400, REFUSAL)
    assert house.supervisor.worked == [True]


@pytest.mark.parametrize(("status", "worked"), [(500, False), (501, True), (503, True)])
async def test_a_childs_own_failures_are_told_to_the_supervisor(
    house: House, status: int, worked: bool
) -> None:
    house.play(answer(status))
    await house.ask()
    assert house.supervisor.worked == [worked]


async def test_an_error_in_the_stream_has_its_own_status(house: House) -> None:
    house.play(stream(b'data: {"error":{"code":500,"message":"Compute error"}}\n\n') + END)
    one = await house.ask()
    assert client(one).status == 500
    assert json.loads(client(one).written)["error"]["message"] == "Compute error"
    assert house.supervisor.worked == [False]


async def test_where_one_model_is_served_it_need_not_be_named(house: House) -> None:
    house.play(answer())
    await house.serve(made("/v1/embeddings", {"input": "x"}))
    assert json.loads(house.pools.requests[0][2]) == {"input": "x", "model": "a"}
    house.supervisor.charges["b"] = house.supervisor.charge
    with pytest.raises(InvalidValue) as raised:
        await house.serve(made("/v1/embeddings", {"input": "x"}))
    assert raised.value.param == "model"


# What goes wrong


@pytest.mark.parametrize(
    ("play", "kind", "worked"),
    [
        (REFUSED, NoAvailableBackend, False),
        (NO_ROOM, NoAvailableBackend, None),
        (TIMED_OUT, UpstreamTimeout, False),
        ((stream(PIECE),), UpstreamError, False),
        (stream(PIECE) + END, UpstreamError, False),
        (stream(b"data: {\n\n", DONE) + END, UpstreamError, False),
    ],
)
async def test_a_child_that_is_lost_is_an_error_for_another_node_to_mend(
    house: House, play: Any, kind: type[RoleMeshError], worked: bool | None
) -> None:
    assert isinstance(await house.failure(play), kind)
    assert house.supervisor.worked == [worked]


async def test_an_answer_that_is_none_counts_as_a_bad_one(house: House) -> None:
    await house.failure(stream(b"data: {\n\n"))
    assert house.pools.connections[-1].aborted
    assert b'attempts_total{backend="a",result="bad_answer"} 1.0' in await house.metrics.render()


async def test_a_child_that_has_just_ended_is_not_asked(house: House) -> None:
    house.supervisor.charge.run = None
    assert isinstance(await house.failure(), NoAvailableBackend)
    assert house.pools.asked == []


async def test_a_draining_node_takes_nothing(house: House) -> None:
    house.drained = True
    error = await house.failure()
    assert isinstance(error, ShuttingDown)
    assert error.retry_after_s
    assert house.pools.asked == []


async def test_a_compressed_body_is_refused(house: House) -> None:
    with pytest.raises(UnsupportedMediaType):
        await house.serve(made(CHAT, {"model": "a"}, ("Content-Encoding", "gzip")))


async def test_who_leaves_takes_the_exchange_along(house: House) -> None:
    for fields in ({}, {"stream": True}, {"n": 2}):
        house.play(stream(PIECE))
        task = asyncio.create_task(house.ask(**fields))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert house.pools.connections[-1].aborted
    assert house.supervisor.worked == [None] * 3


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
@pytest.mark.parametrize("fails", ["lost", "load"])
async def test_a_prompt_is_gone_as_soon_as_its_request_has_failed(
    house: House, fields: dict[str, Any], fails: str
) -> None:
    """An exception that its own frames hold would keep it until the collector of cycles comes."""

    async def attempt() -> weakref.ref[Any]:
        house.play((stream(PIECE),))
        if fails == "load":
            house.load().cancel()
        one = made(CHAT, {"model": "a", **fields})
        there = weakref.ref(one.request)
        with pytest.raises(RoleMeshError):
            await house.forward.serve(one)
        return there

    gc.disable()  # what is part of a cycle stays
    try:
        there = await attempt()
        await turns()
        assert there() is None
    finally:
        gc.enable()


# Waiting for the model


async def test_a_request_waits_until_its_model_is_ready(house: House) -> None:
    loaded = house.load()
    house.play(stream(PIECE, DONE) + END)
    task = asyncio.create_task(house.ask(stream=True))
    await turns()
    assert house.pools.asked == []
    loaded.set_result(None)
    one = await task
    assert client(one).written == PIECE + DONE
    assert (b"Content-Type", b"text/event-stream") in client(one).headers


async def test_who_leaves_waits_no_more(house: House) -> None:
    loaded = house.load()
    task = asyncio.create_task(house.ask())
    await turns()
    assert house.supervisor.waiting == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()
    assert house.supervisor.waiting == 0
    assert not loaded.done()


async def test_who_leaves_in_the_moment_it_is_ready_gives_it_back(house: House) -> None:
    for pause in range(6):
        loaded = house.load()
        task = asyncio.create_task(house.ask(n=2))
        house.pools.plays["a"] = [None]
        await turns()
        loaded.set_result(None)
        for _ in range(pause):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns()
        assert house.supervisor.held == 0


async def test_what_waits_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, for whichever model; what is turned away has waited for nothing."""
    monkeypatch.setattr(forward, "MIN_WAITING_BYTES", 25_000)
    monkeypatch.setattr(forward, "WAITING_BODIES", 0)
    house = House()
    loaded = house.load()
    large = {"messages": ["x" * 10_000]}
    tasks = [asyncio.create_task(house.forward.serve(made(CHAT, {"model": "a", **large})))
             for _ in range(3)]  # fmt: skip
    await turns()
    assert [task.done() for task in tasks] == [False, False, True]
    error = tasks.pop().exception()
    assert isinstance(error, NoAvailableBackend)
    assert error.retry_after_s
    assert house.supervisor.waiting == 2
    tasks.pop().cancel()
    await turns()
    tasks.append(asyncio.create_task(house.forward.serve(made(CHAT, {"model": "a", **large}))))
    await turns()
    house.play(stream(PIECE, DONE) + END, stream(PIECE, DONE) + END)
    loaded.set_result(None)
    await asyncio.gather(*tasks)
    assert house.supervisor.worked == [True, True]


async def begun(house: House, path: str = CHAT) -> tuple[asyncio.Task[None], Inbound]:
    """A stream that has heard two comments."""
    one = made(path, {"model": "a", "messages": [], "stream": True})
    task = asyncio.create_task(house.forward.serve(one))
    async with asyncio.timeout(5):
        while client(one).written.count(COMMENT) < 2:  # noqa: ASYNC110 - a client has no event
            await asyncio.sleep(0.005)
    return task, one


async def test_a_stream_that_waits_hears_comments_and_then_its_answer() -> None:
    house = House(comment_s=0.01)
    loaded = house.load()
    house.play(stream(PIECE, DONE) + END)
    task, one = await begun(house)
    loaded.set_result(None)
    await task
    heard = client(one).written
    assert heard.replace(COMMENT, b"") == PIECE + DONE
    assert heard.endswith(PIECE + DONE)
    assert client(one).ended
    assert client(one).status == 200
    fields = dict(client(one).headers)
    assert fields[b"Content-Type"] == b"text/event-stream"
    assert fields[b"Cache-Control"] == b"no-cache"
    assert fields[b"X-Accel-Buffering"] == b"no"
    assert fields[b"X-RoleMesh-Node"] == b"box"
    assert fields[b"X-Request-ID"] == b"request-1"
    assert one.line.outcome == "ok"


async def test_a_plain_request_that_waits_hears_nothing() -> None:
    house = House(comment_s=0.001)
    loaded = house.load()
    house.play(stream(PIECE, DONE) + END)
    one = made(CHAT, {"model": "a"})
    task = asyncio.create_task(house.forward.serve(one))
    await asyncio.sleep(0.02)
    assert not client(one).started
    loaded.set_result(None)
    await task
    assert client(one).status == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
async def test_a_refusal_behind_comments_is_told_in_the_stream(path: str) -> None:
    house = House(comment_s=0.01)
    loaded = house.load()
    house.play(answer(400, REFUSAL))
    task, one = await begun(house, path)
    loaded.set_result(None)
    await task
    heard = client(one).written.replace(COMMENT, b"")
    name, _, event = heard.rpartition(b"data: ")
    assert name == (b"" if path == CHAT else b"event: error\n")
    told = json.loads(event)
    assert told["error"] == json.loads(REFUSAL)["error"]
    assert told.get("type") == ("error" if path == "/v1/messages" else None)
    assert b"[DONE]" not in heard
    assert client(one).ended
    assert one.line.outcome == "truncated"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b"{" * 70_000])
async def test_a_refusal_that_is_no_error_is_told_in_our_words(body: bytes) -> None:
    house = House(comment_s=0.01)
    loaded = house.load()
    house.play(answer(418, body))
    task, one = await begun(house)
    loaded.set_result(None)
    await task
    told = json.loads(client(one).written.replace(COMMENT, b"").removeprefix(b"data: "))
    assert told["error"]["code"] == "upstream_error"
    assert "418" in told["error"]["message"]


async def test_a_refusal_without_end_is_told_all_the_same() -> None:
    house = House(comment_s=0.01)
    loaded = house.load()
    house.play(answer(418, b"x" * 70_000)[:-1])
    task, one = await begun(house)
    loaded.set_result(None)
    async with asyncio.timeout(5):
        await task
    assert b"HTTP 418" in client(one).written
    assert house.pools.connections[-1].aborted


async def test_a_load_that_fails_behind_comments_has_a_stream_to_tell_it_in() -> None:
    house = House(comment_s=0.01)
    loaded = house.load()
    task, one = await begun(house)
    loaded.set_exception(NoAvailableBackend("it failed"))
    with pytest.raises(NoAvailableBackend):
        await task
    assert one.splitter is not None  # by which the server knows


async def test_who_may_wait_how_long_is_the_configurations(house: House) -> None:
    timeouts = evolve(house.live.config.timeouts, queue_s=7.0)
    house.live = evolve(house.live, config=evolve(house.live.config, timeouts=timeouts))
    waited: list[float] = []

    async def acquire(charge: Charge, wait_s: float) -> None:
        waited.append(wait_s)
        raise NoAvailableBackend("it was not ready")

    house.load().cancel()
    house.supervisor.acquire = acquire  # type: ignore[method-assign]
    assert isinstance(await house.failure(), NoAvailableBackend)
    assert waited == [7.0]
