"""The path of a model request, with backends that are a few bytes each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, cast

import pytest

from rolemesh.core.failover import Failure
from rolemesh.core.health import Health, Reason
from rolemesh.core.registry import Registry
from rolemesh.core.types import Caller, Registration, ServedModel
from rolemesh.errors import (
    InvalidApiKey,
    LoopDetected,
    ModelNotFound,
    NoAvailableBackend,
    RequestTooLarge,
    RoleMeshError,
    UnsupportedMediaType,
    UpstreamError,
    UpstreamTimeout,
)
from rolemesh.gateway.forward import Forward
from rolemesh.gateway.slots import Slots
from rolemesh.proxy.exchange import Broken
from rolemesh.server.inbound import Inbound
from rolemesh.server.metrics import Metrics
from rolemesh.wire.url import parse_url
from tests.core.steps import steps
from tests.gateway.configured import live
from tests.gateway.received import Received, Taken, inbound
from tests.gateway.scripted import END, REFUSED, ScriptedPools, answer, stream

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
TIMED_OUT = Broken(Failure.FIRST_BYTE_TIMEOUT, Reason.FIRST_BYTE_TIMEOUT, "no first byte")
BAD = Broken(Failure.BAD_ANSWER, Reason.BAD_ANSWER, "its framing is not proper HTTP")
MODELS = {
    "planner": {
        "type": "proxy",
        "queue_s": 0.05,
        "backends": [
            {
                "name": "gpu",
                "base_url": "http://10.0.0.1:8011/api",
                "model_id": "qwen3",
                "max_in_flight": 1,
                "auth_token": "s3cret",
            },
            {"name": "cpu", "base_url": "http://10.0.0.2:8011", "max_in_flight": 1},
        ],
    },
    "writer": {"type": "proxy", "proxy_url": "http://10.0.0.3", "defaults": {"temperature": 0.6}},
    "reviewer": {"type": "discovered", "queue_s": 0.05},
}


class House:
    """A gateway's conductor and everything around it that it changes."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.pools = ScriptedPools()
        self.slots = Slots()
        self.health = Health()
        self.registry = Registry(30.0, 86400.0)
        self.metrics = Metrics()
        self.live = live(folder, **{"models": MODELS, **sections})
        self.forward = Forward(
            lambda: self.live,
            self.registry,
            self.health,
            self.pools.as_pools(),
            self.slots,
            self.metrics,
        )

    async def ask(self, model: str | None = "planner", *fields: tuple[str, str]) -> Inbound:
        body = {"messages": []} if model is None else {"model": model, "messages": []}
        return await self.serve(
            Received(*fields, method="POST", path=CHAT, body=json.dumps(body).encode())
        )

    async def serve(self, received: Received) -> Inbound:
        made = inbound(received)
        try:
            await self.forward.serve(made)
        finally:
            self.nothing_is_left()
        return made

    def nothing_is_left(self) -> None:
        assert not self.pools.open_exchanges
        for alias in self.live.table.aliases:
            assert all(self.slots.in_flight(each.key) == 0 for each in alias.backends)


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path)


def client(made: Inbound) -> Taken:
    return cast(Taken, made.downstream)


async def failure(house: House, *plays: tuple[str, Any]) -> RoleMeshError:
    for label, play in plays:
        house.pools.plays[label].append(play)
    with pytest.raises(RoleMeshError) as raised:
        await house.ask()
    return raised.value


# What goes up, what comes down


async def test_the_request_that_a_backend_gets(house: House) -> None:
    house.pools.plays["planner/gpu"].append(answer())
    await house.ask(
        "planner",
        ("Host", "gateway"),
        ("Authorization", "Bearer of-the-client"),
        ("X-Api-Key", "of-the-client"),
        ("Cookie", "c=1"),
        ("X-Conversation-Id", "7"),
        ("Content-Length", "999"),
        ("Content-Type", "text/plain"),
        ("Accept-Encoding", "gzip"),
        ("X-Request-ID", "ignored-here"),
        ("Connection", "X-Hop, close"),
        ("X-Hop", "1"),
        ("OpenAI-Organization", "org"),
        ("Via", "1.1 nginx"),
    )
    via = f"{house.forward.via[0].decode()}: {house.forward.via[1].decode()}"
    assert house.pools.head() == [
        "POST /api/v1/chat/completions HTTP/1.1",
        "Host: 10.0.0.1:8011",
        "OpenAI-Organization: org",
        "Via: 1.1 nginx",
        "Content-Type: application/json",
        "Accept-Encoding: identity",
        via,
        "Authorization: Bearer s3cret",
        "X-Request-ID: request-1",
        "Content-Length: 34",
    ]
    assert json.loads(house.pools.requests[0][2]) == {"model": "qwen3", "messages": []}


async def test_the_body_gets_the_aliass_defaults_and_the_clients_own_model(house: House) -> None:
    house.pools.plays["writer/proxy"].append(answer())
    await house.ask("writer")
    sent = json.loads(house.pools.requests[0][2])
    assert sent == {"model": "writer", "messages": [], "temperature": 0.6}
    assert not any(line.startswith("Authorization") for line in house.pools.head())


async def test_the_answer_that_a_client_gets(house: House) -> None:
    body = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    fields = (
        b"Content-Type: application/json\r\nServer: llama\r\nSet-Cookie: c=1\r\n"
        b"X-Request-ID: of-the-backend\r\nX-RoleMesh-Alias: forged\r\nConnection: X-Hop\r\n"
        b"X-Hop: 1\r\n"
    )
    house.pools.plays["planner/gpu"].append(answer(200, body, fields))
    made = await house.ask()
    taken = client(made)
    assert (taken.status, taken.length, taken.written) == (200, len(body), body)
    assert taken.headers == [
        (b"Content-Type", b"application/json"),
        (b"Server", b"llama"),
        (b"X-Request-ID", b"request-1"),
        (b"X-RoleMesh-Alias", b"planner"),
        (b"X-RoleMesh-Backend", b"gpu"),
        (b"X-RoleMesh-Model", b"qwen3"),
    ]
    line = made.line
    assert (line.alias, line.backend, line.model) == ("planner", "planner/gpu", "qwen3")
    assert (line.prompt_tokens, line.completion_tokens) == (3, 4)
    assert line.first_byte_s is not None


async def test_a_stream_is_told_not_to_be_kept_or_buffered(house: House) -> None:
    play = stream(b"data: 1\n\n", DONE).replace(b"\r\n", b"\r\nCache-Control: max-age=9\r\n", 1)
    house.pools.plays["planner/gpu"].append(play + END)
    taken = client(await house.ask())
    assert taken.length is None
    assert taken.written == b"data: 1\n\n" + DONE
    assert [value for name, value in taken.headers if name == b"Cache-Control"] == [b"no-cache"]
    assert (b"X-Accel-Buffering", b"no") in taken.headers


async def test_a_node_is_named_as_one(house: House) -> None:
    registration = Registration(
        "gpu-box-1",
        parse_url("http://10.0.0.9:8014"),
        (ServedModel("modèle", ("reviewer",)),),
        access_token="node-token",
    )
    house.registry.register(registration, Caller("loopback"), asyncio.get_running_loop().time())
    house.pools.plays["gpu-box-1"].append(answer())
    taken = client(await house.ask("reviewer"))
    assert (b"X-RoleMesh-Node", b"gpu-box-1") in taken.headers
    assert (b"X-RoleMesh-Model", b"mod%C3%A8le") in taken.headers
    assert "Authorization: Bearer node-token" in house.pools.head()


@pytest.mark.parametrize("status", [400, 404, 408, 422, 500, 504])
async def test_an_upstreams_own_error_passes_through_unchanged(house: House, status: int) -> None:
    house.pools.plays["planner/gpu"].append(answer(status, b'{"error": "its own"}'))
    taken = client(await house.ask())
    assert (taken.status, taken.written) == (status, b'{"error": "its own"}')
    assert house.pools.asked == ["planner/gpu"]


# Failover


@pytest.mark.parametrize(
    "first",
    [
        REFUSED,
        Broken(Failure.LOST_BEFORE_HEAD, Reason.CONNECTION_LOST, "lost"),
        Broken(Failure.LOST_BEFORE_BODY, Reason.CONNECTION_LOST, "lost"),
        answer(401),
        answer(403),
        answer(429),
        answer(502),
        answer(503),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",),
    ],
)
async def test_another_backend_is_tried_after(house: House, first: Any) -> None:
    house.pools.plays["planner/gpu"].append(first)
    house.pools.plays["planner/cpu"].append(answer(200, b'{"from": "cpu"}'))
    made = await house.ask()
    assert client(made).written == b'{"from": "cpu"}'
    assert house.pools.asked == ["planner/gpu", "planner/cpu"]
    assert (made.line.backend, made.line.attempts) == ("planner/cpu", 2)


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (TIMED_OUT, UpstreamTimeout),
        (Broken(Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT, "silent"), UpstreamTimeout),
        (BAD, UpstreamError),
        (answer(301, b"", b"Location: http://elsewhere\r\n"), UpstreamError),
        (answer(307, b"", b"Location: http://elsewhere\r\n"), UpstreamError),
    ],
)
async def test_no_other_backend_is_tried_after(
    house: House, first: Any, error: type[RoleMeshError]
) -> None:
    raised = await failure(house, ("planner/gpu", first))
    assert type(raised) is error
    assert "10.0.0" not in json.dumps([raised.message, raised.details])
    assert house.pools.asked == ["planner/gpu"]


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_the_last_backends_not_now_passes_through(house: House, status: int) -> None:
    house.pools.plays["planner/gpu"].append(REFUSED)
    house.pools.plays["planner/cpu"].append(answer(status, b"busy", b"Retry-After: 7\r\n"))
    taken = client(await house.ask())
    assert (taken.status, taken.written) == (status, b"busy")
    assert (b"Retry-After", b"7") in taken.headers


async def test_a_refused_credential_of_ours_is_not_the_clients_fault(tmp_path: Path) -> None:
    backend = {"base_url": "http://10.0.0.1", "name": "gpu", "auth_token": "t"}
    house = House(tmp_path, models={"planner": {"type": "proxy", "backends": [backend]}})
    for status in (401, 403):
        raised = await failure(house, ("planner/gpu", answer(status)))
        assert type(raised) is UpstreamError
        assert "your key is not at fault" in raised.message


async def test_a_401_where_we_showed_no_credential_passes_through(house: House) -> None:
    house.pools.plays["writer/proxy"].append(answer(401, b"who?"))
    assert client(await house.ask("writer")).status == 401


async def test_when_nobody_could_be_connected_to_nothing_was_sent(house: House) -> None:
    raised = await failure(house, ("planner/gpu", REFUSED), ("planner/cpu", REFUSED))
    assert type(raised) is NoAvailableBackend
    assert raised.retry_after_s == 5
    assert raised.details == [
        {"backend": label, "reason": "connection_refused", "detail": "connection refused"}
        for label in ("planner/gpu", "planner/cpu")
    ]


async def test_a_backend_that_failed_a_moment_ago_is_tried_last(house: House) -> None:
    house.pools.plays["planner/gpu"] += [REFUSED, answer()]
    house.pools.plays["planner/cpu"] += [answer(), REFUSED]
    await house.ask()
    await house.ask()
    assert house.pools.asked == ["planner/gpu", "planner/cpu", "planner/cpu", "planner/gpu"]


async def test_what_the_gateway_itself_is_short_of_counts_against_no_backend(house: House) -> None:
    short = Broken(Failure.CONNECT, Reason.NO_DESCRIPTORS, "no descriptor")
    house.pools.plays["planner/gpu"].append(short)
    house.pools.plays["planner/cpu"].append(answer())
    await house.ask()
    assert house.pools.asked == ["planner/gpu", "planner/cpu"]
    assert not house.health.failing(0.0)


async def test_a_role_without_nodes_says_so(house: House) -> None:
    with pytest.raises(NoAvailableBackend) as raised:
        await house.ask("reviewer")
    assert raised.value.details is not None
    assert [why["reason"] for why in raised.value.details] == ["no_node"]


# Answers that break off


async def test_once_a_byte_has_reached_the_client_no_other_backend_is_tried(house: House) -> None:
    house.pools.plays["planner/gpu"].append(stream(b"data: 1\n\n", b"data: half"))
    asking = asyncio.create_task(house.ask())
    await _turns()
    house.pools.open_exchanges[0].lost(orderly=True)
    with pytest.raises(UpstreamError):
        await asking
    assert house.pools.asked == ["planner/gpu"]


async def test_a_stream_without_its_end_mark_is_an_upstream_error(house: House) -> None:
    house.pools.plays["planner/gpu"].append(stream(b"data: 1\n\n") + END)
    with pytest.raises(UpstreamError):
        await house.ask()


async def test_a_stream_that_nobody_saw_leaves_no_trace_in_the_answer_of_another(
    house: House,
) -> None:
    """Else an error event would be written into a JSON document that breaks off."""
    house.pools.plays["planner/gpu"].append((stream(b"data: 1\n\n"),))
    house.pools.plays["planner/cpu"].append(answer(200, b'{"from": "cpu"}'))
    made = await house.ask()
    assert client(made).written == b'{"from": "cpu"}'
    assert made.splitter is None


# Waiting


async def test_one_who_waits_in_vain_is_told_to_come_back_soon(house: House) -> None:
    for alias in house.live.table.aliases:
        for each in alias.backends:
            house.slots.take([each])
    made = inbound(Received(method="POST", path=CHAT, body=b'{"model": "planner"}'))
    with pytest.raises(NoAvailableBackend) as raised:
        await house.forward.serve(made)
    assert raised.value.retry_after_s == 1
    assert raised.value.details is not None
    assert [why["reason"] for why in raised.value.details] == ["at_capacity", "at_capacity"]
    assert made.phase == "queue"


async def test_a_slot_that_comes_free_serves_the_one_who_waits(house: House) -> None:
    house.pools.plays["planner/gpu"] += [None, answer(200, b"second")]
    house.pools.plays["planner/cpu"] += [None]
    holding = [asyncio.create_task(_quietly(house)) for _ in range(2)]
    await _turns()
    assert house.pools.asked == ["planner/gpu", "planner/cpu"]
    waiting = asyncio.create_task(_quietly(house))
    await _turns()
    house.pools.open_exchanges[0].feed(memoryview(answer(200, b"first")))
    await asyncio.wait([holding[0], waiting])
    assert client(waiting.result()).written == b"second"
    holding[1].cancel()
    await asyncio.wait(holding)
    house.nothing_is_left()


@pytest.mark.parametrize("play", [None, stream(b"data: 1\n\n")], ids=["silent", "streaming"])
async def test_a_client_that_leaves_takes_everything_with_it(house: House, play: Any) -> None:
    house.pools.plays["planner/gpu"].append(play)
    asking = asyncio.create_task(house.ask())
    await _turns()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    assert house.pools.connections[0].aborted
    assert not house.health.failing(0.0)  # a client that left counts against nobody
    house.nothing_is_left()


# At the door


async def test_a_request_that_came_through_here_before_is_a_loop(house: House) -> None:
    via = house.forward.via[1].decode()
    with pytest.raises(LoopDetected):
        await house.ask("planner", ("Via", "1.1 nginx"), ("Via", f"1.0 other, {via}"))
    house.pools.plays["writer/proxy"].append(answer())
    await house.ask("writer", ("Via", "1.1 rolemesh-0123456789ab"))


async def test_the_key_is_judged_before_anything_else(tmp_path: Path) -> None:
    house = House(
        tmp_path,
        auth={"client_api_keys": ["k"]},
        gateway={"max_body_bytes": 16},
    )
    gzip, key = ("Content-Encoding", "gzip"), ("X-Api-Key", "k")
    body = b"x" * 17
    for fields, error in [
        ([gzip], InvalidApiKey),
        ([], InvalidApiKey),
        ([gzip, key], UnsupportedMediaType),
        ([key], RequestTooLarge),
    ]:
        with pytest.raises(error):
            await house.serve(Received(*fields, method="POST", path=CHAT, body=body))


async def test_without_a_model_the_default_is_meant(tmp_path: Path) -> None:
    house = House(tmp_path, default_model="writer")
    house.pools.plays["writer/proxy"].append(answer())
    assert (await house.ask(None)).line.alias == "writer"
    with pytest.raises(ModelNotFound):
        await house.ask("nobody")


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _quietly(house: House) -> Inbound:
    """Without the check that nothing is left: others are under way."""
    made = inbound(Received(method="POST", path=CHAT, body=b'{"model": "planner"}'))
    await house.forward.serve(made)
    return made


async def test_what_a_request_costs_does_not_grow_with_the_nodes(tmp_path: Path) -> None:
    async def served(nodes: int) -> int:
        house = House(tmp_path)
        for number in range(nodes):
            model = ServedModel("qwen3", ("reviewer",), slots=4)
            url = parse_url(f"http://10.1.{number // 250}.{number % 250 + 1}")
            wish = Registration(f"node-{number:03d}", url, (model,))
            house.registry.register(wish, Caller("nodes"), asyncio.get_running_loop().time())
            house.pools.plays[wish.node_id].append(answer())
        await house.ask("reviewer")
        asking = house.ask("reviewer")

        def ask() -> None:
            with pytest.raises(StopIteration):  # nothing that it asks for has to be waited for
                asking.send(None)

        return steps(ask)

    await served(3)
    # Chance draws again now and then, which is some steps; each node looked at would be dozens.
    assert abs(await served(400) - await served(40)) < 360
