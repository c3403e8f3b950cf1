"""A lease that is kept: through a gateway's restart, its refusals and its absence."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

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
    monkeypatch.setattr(keep, "NEWS_GAP_S", 0.01)


@contextlib.asynccontextmanager
async def kept(
    url: str,
    interval_s: float = 10,
    beat: Callable[[], Heartbeat] = lambda: Heartbeat(NODE.node_id),
) -> AsyncIterator[LeaseKeeper]:
    async with Client(Gateway(parse_url(url)), 2) as client:
        keeper = LeaseKeeper(client, lambda: NODE, beat, interval_s, lambda: 0.5)
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


async def test_news_is_told_before_the_next_heartbeat_is_due(gateway: FakeGateway):
    gateway.interval_s = 3600
    async with kept(gateway.url, interval_s=3600) as keeper:
        await keeper.accepted.wait()
        keeper.tell()
        await gateway.until(lambda: len(gateway.calls) == 2)
    assert gateway.steps() == ["register", "heartbeat"]


async def test_much_news_is_one_heartbeat_a_while_after_the_last(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keep, "NEWS_GAP_S", 0.3)
    gateway.interval_s = 3600
    now = asyncio.get_running_loop().time
    told: list[float] = []

    def beat() -> Heartbeat:
        told.append(now())
        return Heartbeat(NODE.node_id)

    async with kept(gateway.url, 3600, beat) as keeper:
        await keeper.accepted.wait()
        told.clear()  # what a registration left to tell was asked for, too
        for _ in range(3):
            for _ in range(100):
                keeper.tell()
            before = len(told)
            await gateway.until(lambda before=before: len(told) > before)
    assert len(told) == 3
    assert min(b - a for a, b in itertools.pairwise(told)) > 0.25


async def test_news_during_an_exchange_is_told_after_it(gateway: FakeGateway):
    gateway.interval_s = 3600
    keepers: list[LeaseKeeper] = []

    def answer(method: str, path: str) -> None:
        if len(gateway.calls) == 1:  # its registration is on the way
            keepers[0].tell()

    gateway.answer = answer
    async with kept(gateway.url, interval_s=3600) as keeper:
        keepers.append(keeper)
        await gateway.until(lambda: len(gateway.calls) == 2)
    assert gateway.steps() == ["register", "heartbeat"]


async def test_a_wish_to_register_anew_during_an_exchange_is_kept(gateway: FakeGateway):
    gateway.interval_s = 3600
    keepers: list[LeaseKeeper] = []

    def answer(method: str, path: str) -> None:
        if len(gateway.calls) == 1:
            keepers[0].register_anew()

    gateway.answer = answer
    async with kept(gateway.url, interval_s=3600) as keeper:
        keepers.append(keeper)
        await gateway.until(lambda: len(gateway.calls) == 2)
    assert gateway.steps() == ["register", "register"]


async def test_figures_follow_a_registration_at_once(gateway: FakeGateway):
    gateway.interval_s = 3600
    beat = Heartbeat(NODE.node_id, metrics={"devices": [], "host": {"load1": 1}})
    async with kept(gateway.url, 3600, lambda: beat):
        await gateway.until(lambda: len(gateway.calls) == 2)
    assert gateway.calls[1][2]["metrics"]["host"] == {"load1": 1}


async def test_news_does_not_hurry_a_gateway_that_is_out(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keep, "FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(keep, "LONGEST_PAUSE_S", 3600.0)
    gateway.answer = lambda method, path: refusal(503, "shutting_down")
    async with kept(gateway.url, interval_s=3600) as keeper:
        await gateway.until(lambda: len(gateway.calls) == 1)
        keeper.tell()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await gateway.until(lambda: len(gateway.calls) == 2)
        gateway.answer = lambda method, path: None
        keeper.register_anew()
        await keeper.accepted.wait()


async def test_each_new_reason_is_logged_and_kept(
    gateway: FakeGateway, caplog: pytest.LogCaptureFixture
):
    def answer(method: str, path: str):
        number = len(gateway.calls)
        code = {1: "first", 2: "first", 3: "second", 4: "second"}.get(number)
        return refusal(401, code) if code else None

    gateway.answer = answer
    async with kept(gateway.url) as keeper:
        await keeper.accepted.wait()
        assert keeper.trouble is not None
        assert "(401 second)" in keeper.trouble.message
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert [("first" in text, "second" in text) for text in warnings] == [
        (True, False),
        (False, True),
    ]


async def test_a_gateway_that_says_nothing_is_given_up_after_an_interval(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keep, "SHORTEST_PATIENCE_S", 0.05)
    gateway.answering.clear()
    async with kept(gateway.url, interval_s=0.1) as keeper:
        await gateway.until(lambda: len(gateway.calls) == 2)
        assert keeper.trouble is not None
        assert "no answer within 0.1 s" in keeper.trouble.message
        gateway.answering.set()
        await keeper.accepted.wait()
        assert keeper.registered
        assert keeper.since is not None


async def test_a_registration_that_was_broken_off_is_taken_back(gateway: FakeGateway):
    gateway.answering.clear()
    async with Client(Gateway(parse_url(gateway.url)), 5) as client:
        keeper = LeaseKeeper(client, lambda: NODE, lambda: Heartbeat(NODE.node_id), 10)
        task = asyncio.create_task(keeper.run())
        await gateway.until(lambda: len(gateway.calls) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gateway.answering.set()
        await keeper.goodbye()
    assert gateway.steps() == ["register", "goodbye"]


def test_the_pause_grows_with_jitter_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keep, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(keep, "LONGEST_PAUSE_S", 30.0)

    def pauses(interval_s: float, chance: float, number: int) -> list[float]:
        client = Client(Gateway(parse_url("http://127.0.0.1")))
        keeper = LeaseKeeper(
            client, lambda: NODE, lambda: Heartbeat("n"), interval_s, lambda: chance
        )
        return [keeper._back_off() for _ in range(number)]

    assert pauses(60, 1.0, 7) == [1, 2, 4, 8, 16, 30, 30]
    assert pauses(60, 0.0, 3) == [0.5, 1, 2]
    # Never longer than an interval: the node is back that long after the gateway is.
    assert pauses(10, 1.0, 6) == [1, 2, 4, 8, 10, 10]
