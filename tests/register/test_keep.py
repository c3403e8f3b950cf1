"""A lease that is kept: through a gateway's restart, its refusals and its absence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from rolemesh.core.types import Heartbeat, Registration, ServedModel
from rolemesh.register import keep
from rolemesh.register.client import Client, Gateway
from rolemesh.register.keep import LeaseKeeper
from rolemesh.wire.url import parse_url
from tests.register.fake_gateway import FakeGateway, refusal

NODE = Registration("box-1", parse_url("http://127.0.0.1:8014"), (ServedModel("m", ("r",)),))


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(keep, "LONGEST_PAUSE_S", 0.05)


@contextlib.asynccontextmanager
async def kept(url: str, interval_s: float = 10) -> AsyncIterator[LeaseKeeper]:
    async with Client(Gateway(parse_url(url)), 2) as client:
        beat = Heartbeat(NODE.node_id)
        keeper = LeaseKeeper(client, lambda: NODE, lambda: beat, interval_s, lambda: 0.5)
        task = asyncio.create_task(keeper.run())
        yield keeper
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_it_registers_once_and_then_heartbeats(gateway: FakeGateway):
    async with kept(gateway.url) as keeper:
        await gateway.until(lambda: len(gateway.calls) == 4)
        assert keeper.registered
        assert keeper.accepted.is_set()
    assert gateway.steps() == ["register", "heartbeat", "heartbeat", "heartbeat"]


async def test_the_shorter_of_the_two_intervals_counts(gateway: FakeGateway):
    gateway.interval_s = 3600
    async with kept(gateway.url, interval_s=0.05):
        await gateway.until(lambda: len(gateway.calls) == 3)


async def test_a_gateway_that_forgot_the_node_is_told_anew_at_once(gateway: FakeGateway):
    def forgetful(method: str, path: str):
        forgot = len(gateway.calls) == 2
        return refusal(404, "unknown_node") if forgot else None

    gateway.answer = forgetful
    async with kept(gateway.url):
        await gateway.until(lambda: len(gateway.calls) == 4)
    assert gateway.steps() == ["register", "heartbeat", "register", "heartbeat"]


async def test_a_refusal_is_tried_again_and_logged_once(
    gateway: FakeGateway, caplog: pytest.LogCaptureFixture
):
    gateway.answer = lambda method, path: (
        refusal(401, "invalid_api_key") if len(gateway.calls) < 5 else None
    )
    async with kept(gateway.url) as keeper:
        await gateway.until(lambda: len(gateway.calls) == 6)
        assert keeper.registered
    assert gateway.steps() == ["register"] * 5 + ["heartbeat"]
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1


async def test_a_failed_heartbeat_is_followed_by_a_heartbeat(gateway: FakeGateway):
    gateway.answer = lambda method, path: (
        refusal(503, "shutting_down") if len(gateway.calls) == 2 else None
    )
    async with kept(gateway.url):
        await gateway.until(lambda: len(gateway.calls) == 3)
    assert gateway.steps() == ["register", "heartbeat", "heartbeat"]


async def test_goodbye_is_said_only_to_those_who_know_us(gateway: FakeGateway):
    async with kept(gateway.url) as keeper:
        await keeper.accepted.wait()
    async with kept(gateway.url) as stranger:
        before = len(gateway.calls)
        await stranger.goodbye()
        assert len(gateway.calls) == before


async def test_a_goodbye_that_fails_is_a_warning(
    gateway: FakeGateway, caplog: pytest.LogCaptureFixture
):
    gateway.interval_s = 10
    async with kept(gateway.url) as keeper:
        await keeper.accepted.wait()
        gateway.answer = lambda method, path: refusal(503, "shutting_down")
        await keeper.goodbye()
    assert gateway.steps() == ["register", "goodbye"]
    assert "could not be deregistered" in caplog.text


async def test_registering_anew_does_not_wait_for_the_next_heartbeat(gateway: FakeGateway):
    gateway.interval_s = 3600
    async with kept(gateway.url, interval_s=3600) as keeper:
        await keeper.accepted.wait()
        keeper.register_anew()
        await gateway.until(lambda: len(gateway.calls) == 2)
    assert gateway.steps() == ["register", "register"]


def test_the_pause_grows_with_jitter_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keep, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(keep, "LONGEST_PAUSE_S", 30.0)
    client = Client(Gateway(parse_url("http://127.0.0.1")))
    keeper = LeaseKeeper(client, lambda: NODE, lambda: Heartbeat("n"), 10, lambda: 1.0)
    assert [keeper._back_off() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    keeper = LeaseKeeper(client, lambda: NODE, lambda: Heartbeat("n"), 10, lambda: 0.0)
    assert [keeper._back_off() for _ in range(3)] == [0.5, 1, 2]
