"""One exchange with a gateway, and the words for each way in which it can fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web

from rolemesh.core.types import Heartbeat, Registration, ServedModel
from rolemesh.errors import (
    InvalidApiKey,
    NotAllowed,
    RequestError,
    RoleMeshError,
    RunError,
    UnknownNode,
)
from rolemesh.register.client import Client, Gateway
from rolemesh.wire.url import parse_url
from tests.register.fake_gateway import FakeGateway, refusal

NODE = Registration(
    "box-1", parse_url("http://127.0.0.1:8014"), (ServedModel("qwen3-8b", ("reviewer",)),)
)


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway() as fake:
        yield fake


def client(url: str, key: str | None = None, timeout_s: float = 5) -> Client:
    return Client(Gateway(parse_url(url), key), timeout_s)


async def test_registering_sends_the_key_and_returns_the_interval(gateway: FakeGateway):
    async with client(gateway.url, "secret") as one:
        assert await one.register(NODE) == 0.05
    method, path, body, headers = gateway.calls[0]
    assert (method, path) == ("POST", "/v1/nodes/register")
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"
    assert body["served_models"][0]["model_id"] == "qwen3-8b"


async def test_heartbeat_and_goodbye_name_the_node(gateway: FakeGateway):
    async with client(gateway.url) as one:
        await one.heartbeat(Heartbeat("box-1"))
        await one.goodbye("box-1")
    assert gateway.calls[0][2]["node_id"] == "box-1"
    assert gateway.calls[1][:2] == ("DELETE", "/v1/nodes/box-1")


@pytest.mark.parametrize("asked", [None, "10", -1, 0, "nan", [], {}])
async def test_an_interval_that_is_none_becomes_the_usual_one(gateway: FakeGateway, asked: object):
    gateway.interval_s = asked
    async with client(gateway.url) as one:
        assert await one.register(NODE) == 10


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_api_key", InvalidApiKey),
        (403, "not_allowed", NotAllowed),
        (404, "unknown_node", UnknownNode),
        (400, "invalid_value", RequestError),
        (503, "shutting_down", RunError),
    ],
)
async def test_a_refusal_becomes_the_error_it_stands_for(
    gateway: FakeGateway, status: int, code: str, kind: type[RoleMeshError]
):
    gateway.answer = lambda method, path: refusal(status, code, "because\x1b[31m")
    async with client(gateway.url, "secret") as one:
        with pytest.raises(kind) as caught:
            await one.register(NODE)
    assert caught.value.message == f"{gateway.url}: because\\x1b[31m ({status} {code})"


async def test_a_refusal_of_a_request_without_a_key_says_that_none_was_sent(gateway: FakeGateway):
    gateway.answer = lambda method, path: refusal(401, "invalid_api_key", "because")
    async with client(gateway.url) as one:
        with pytest.raises(InvalidApiKey, match=r"no key was sent$"):
            await one.register(NODE)


@pytest.mark.parametrize("text", ["<html>", "[]", "", '{"error": "text"}', "[" * 100_000])
async def test_something_that_is_no_gateway_is_told_as_that(gateway: FakeGateway, text: str):
    gateway.answer = lambda method, path: web.Response(status=500, text=text)
    async with client(gateway.url) as one:
        with pytest.raises(RunError, match="answered 500, and not as a RoleMesh gateway does"):
            await one.register(NODE)


async def test_a_redirect_is_not_followed(gateway: FakeGateway):
    gateway.answer = lambda method, path: web.Response(status=302, headers={"Location": "/other"})
    async with client(gateway.url) as one:
        with pytest.raises(RunError, match="answered 302"):
            await one.register(NODE)
    assert len(gateway.calls) == 1


async def test_nobody_listening_is_told_with_a_hint():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with client(f"http://127.0.0.1:{port}") as one:
        with pytest.raises(RunError, match="connection refused: is a gateway running there"):
            await one.register(NODE)


async def test_a_name_that_does_not_resolve_is_told():
    async with client("http://no-such-name.invalid") as one:
        with pytest.raises(RunError, match="the name does not resolve"):
            await one.register(NODE)


@asynccontextmanager
async def speaking(text: bytes) -> AsyncIterator[str]:
    """A server that says `text`, whatever it is told, and waits for the client to leave."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await ended.wait()
    server.close()


async def test_a_gateway_that_says_nothing_is_given_up_in_time():
    async with speaking(b"") as url, client(url, timeout_s=0.2) as one:
        with pytest.raises(RunError, match=r"no answer within 0\.2 s"):
            await one.register(NODE)


async def test_garbage_instead_of_http_is_a_clear_error():
    async with speaking(b"SSH-2.0-OpenSSH\r\n\r\n") as url, client(url) as one:
        with pytest.raises(RunError) as caught:
            await one.register(NODE)
    assert caught.value.message.isprintable()


async def test_the_environments_proxy_is_not_used(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with client(gateway.url) as one:
        await one.register(NODE)


def test_a_gateways_description_does_not_show_the_key():
    assert "secret" not in repr(Gateway(parse_url("http://127.0.0.1"), "secret"))
