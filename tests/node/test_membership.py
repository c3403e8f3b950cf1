"""A node at its gateways: what it tells them and when, through their restarts and its reloads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from rolemesh.config.schema_node import GatewayTarget
from rolemesh.core.types import ModelState, ServedModel
from rolemesh.errors import ConfigError
from rolemesh.node.membership import Identity, Membership
from rolemesh.register import keep
from rolemesh.wire.url import parse_url
from tests.dead_ports import RefusedPort
from tests.gateway_process import GatewayProcess
from tests.register.fake_gateway import FakeGateway

IDENTITY = Identity("box", parse_url("http://127.0.0.1:8091"), "t0ken", {"gpu": "P40"})
READY = ServedModel("qwen", ("critic",), state=ModelState.READY, slots=2, slots_busy=0)
FIGURES: dict[str, Any] = {"devices": [{"id": "GPU-1", "power_watts": 9.5}], "host": {"load1": 1}}
NEVER_S = 3600.0


class Node:
    """What a node would be asked by its membership."""

    def __init__(self) -> None:
        self.models: tuple[ServedModel, ...] = (READY,)
        self.figures: Any = FIGURES
        self.membership = Membership(lambda: self.models, lambda: self.figures)

    async def joins(self, *urls: str, interval_s: float = NEVER_S, **target: Any) -> None:
        targets = [GatewayTarget(url=parse_url(url), **target) for url in urls]
        await self.membership.apply(IDENTITY, targets, interval_s)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    yield node
    await node.membership.close()


@pytest.fixture
async def gateways() -> AsyncIterator[tuple[FakeGateway, FakeGateway]]:
    async with FakeGateway() as first, FakeGateway() as second:
        first.interval_s = second.interval_s = NEVER_S
        yield first, second


Gateways = tuple[FakeGateway, FakeGateway]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(keep, "NEWS_GAP_S", 0.01)


@pytest.fixture
def refused() -> Iterator[RefusedPort]:
    port = RefusedPort()
    yield port
    port.close()


async def until(true: Callable[[], bool | Awaitable[bool]], within_s: float = 10.0) -> None:
    for _ in range(int(within_s / 0.05)):
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"it has not come true within {within_s:g} s")


async def until_calls(number: int, *gateways: FakeGateway) -> None:
    for gateway in gateways:
        await gateway.until(lambda gateway=gateway: len(gateway.calls) >= number)


async def test_every_gateway_is_told_who_the_node_is_what_it_serves_and_its_figures(
    node: Node, gateways: Gateways
):
    await node.joins(gateways[0].url, gateways[1].url, node_key="secret")
    await until_calls(2, *gateways)
    for gateway in gateways:
        assert gateway.steps() == ["register", "heartbeat"]
        registration, beat = (call[2] for call in gateway.calls)
        model = {
            "model_id": "qwen", "roles": ["critic"], "state": "READY",
            "slots": 2, "slots_busy": 0,
        }  # fmt: skip
        assert registration == {
            "node_id": "box",
            "base_url": "http://127.0.0.1:8091",
            "served_models": [model],
            "meta": {"gpu": "P40"},
            "access_token": "t0ken",
        }
        assert beat == {"node_id": "box", "served_models": [model], "metrics": FIGURES}
        assert gateway.calls[0][3]["Authorization"] == "Bearer secret"


async def test_a_change_is_told_everywhere_before_the_next_heartbeat_is_due(
    node: Node, gateways: Gateways
):
    await node.joins(*(gateway.url for gateway in gateways))
    await until_calls(2, *gateways)
    node.models = (evolve(READY, state=ModelState.FATAL, detail="exit code 1"),)
    for _ in range(100):
        node.membership.changed()
    await until_calls(3, *gateways)
    for gateway in gateways:
        (model,) = gateway.calls[2][2]["served_models"]
        assert (model["state"], model["detail"]) == ("FATAL", "exit code 1")


async def test_a_gateway_that_is_down_holds_up_no_other_and_is_seen(
    node: Node, gateways: Gateways, refused: RefusedPort
):
    await node.joins(refused.url, gateways[0].url)
    await until_calls(2, gateways[0])
    await until(lambda: node.membership.view()[0]["last_error"] is not None)
    seen = {each["url"]: each for each in node.membership.view()}
    assert seen[gateways[0].url]["registered"] is True
    assert seen[gateways[0].url]["last_error"] is None
    assert seen[gateways[0].url]["since_s"] >= 0
    assert seen[refused.url]["registered"] is False
    assert "connection refused" in seen[refused.url]["last_error"]["message"]
    assert json.loads(json.dumps(node.membership.view())) == node.membership.view()


async def test_figures_that_no_gateway_would_take_do_not_cost_the_lease(
    node: Node, gateways: Gateways, caplog: pytest.LogCaptureFixture
):
    node.figures = {"devices": [{"id": "GPU-1", "power_watts": float("nan")}]}
    await node.joins(gateways[0].url)
    await until_calls(1, gateways[0])
    for calls in (2, 3):
        node.membership.changed()
        await until_calls(calls, gateways[0])
        assert "metrics" not in gateways[0].calls[-1][2]
    assert caplog.text.count("figures") == 1
    node.figures = FIGURES
    node.membership.changed()
    await until_calls(4, gateways[0])
    assert gateways[0].calls[-1][2]["metrics"] == FIGURES


async def test_a_fault_in_what_is_told_does_not_cost_the_lease_for_good(
    gateways: Gateways, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rolemesh.node.membership.AFTER_A_FAULT_S", 0.01)
    faults = iter([ZeroDivisionError()])

    def offers() -> tuple[ServedModel, ...]:
        for fault in faults:
            raise fault
        return (READY,)

    membership = Membership(offers, lambda: None)
    await membership.apply(IDENTITY, [GatewayTarget(url=parse_url(gateways[0].url))], NEVER_S)
    await until_calls(1, gateways[0])
    assert "ZeroDivisionError" in caplog.text
    await membership.close()


async def test_goodbye_is_said_to_all_who_know_the_node(
    node: Node, gateways: Gateways, refused: RefusedPort
):
    await node.joins(refused.url, *(gateway.url for gateway in gateways))
    await until_calls(2, *gateways)
    await node.membership.goodbye()
    for gateway in gateways:
        assert gateway.steps() == ["register", "heartbeat", "goodbye"]
    node.membership.changed()


async def test_goodbyes_are_said_at_once_and_bounded(
    node: Node, gateways: Gateways, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keep, "GOODBYE_S", 0.2)
    await node.joins(*(gateway.url for gateway in gateways))
    await until_calls(2, *gateways)
    for gateway in gateways:
        gateway.answering.clear()
    async with asyncio.timeout(5):
        await node.membership.goodbye()
    assert [gateway.steps()[-1] for gateway in gateways] == ["goodbye", "goodbye"]
    for gateway in gateways:
        gateway.answering.set()


# Reloads


async def test_a_reload_that_changes_nothing_says_nothing(node: Node, gateways: Gateways):
    for _ in range(2):
        await node.joins(*(gateway.url for gateway in gateways))
        await until_calls(2, *gateways)
    node.membership.changed()
    await until_calls(3, *gateways)
    assert [gateway.steps() for gateway in gateways] == [["register", "heartbeat", "heartbeat"]] * 2


async def test_a_gateway_that_is_taken_out_gets_a_goodbye_and_the_other_is_left_alone(
    node: Node, gateways: Gateways
):
    await node.joins(*(gateway.url for gateway in gateways))
    await until_calls(2, *gateways)
    await node.joins(gateways[1].url)
    assert gateways[0].steps() == ["register", "heartbeat", "goodbye"]
    assert gateways[1].steps() == ["register", "heartbeat"]
    assert [each["url"] for each in node.membership.view()] == [gateways[1].url]


async def test_another_key_is_another_registration_without_a_goodbye(
    node: Node, gateways: Gateways
):
    for key in ("first", "second"):
        await node.joins(*(gateway.url for gateway in gateways), node_key=key)
        await until_calls(2 if key == "first" else 4, *gateways)
    assert gateways[0].steps() == ["register", "heartbeat"] * 2
    keys = [headers["Authorization"] for _, _, _, headers in gateways[0].calls]
    assert keys == ["Bearer first"] * 2 + ["Bearer second"] * 2


async def test_a_renewed_certificate_is_read_at_a_reload(
    node: Node, gateways: Gateways, tmp_path: Path
):
    ca_file = tmp_path / "ca.pem"
    for number, content in enumerate(("first", "first", "second")):
        if number != 1:
            ca_file.unlink(missing_ok=True)
            ca_file.write_text(content)
            os.utime(ca_file, (number, number))
        await node.joins(gateways[0].url, ca_file=str(ca_file))
        await until_calls(4 if number == 2 else 2, gateways[0])
    assert gateways[0].steps() == ["register", "heartbeat"] * 2


async def test_a_node_that_moves_registers_again(node: Node, gateways: Gateways):
    await node.joins(gateways[0].url)
    await until_calls(2, gateways[0])
    moved = evolve(IDENTITY, url=parse_url("http://10.0.0.9"))
    targets = [GatewayTarget(url=parse_url(gateways[0].url))]
    await node.membership.apply(moved, targets, NEVER_S)
    await gateways[0].until(lambda: gateways[0].steps().count("register") == 2)
    told = [call[2]["base_url"] for call in gateways[0].calls if "base_url" in (call[2] or {})]
    assert told == ["http://127.0.0.1:8091", "http://10.0.0.9"]


async def test_a_tls_file_that_cannot_be_used_leaves_all_as_it_was(
    node: Node, gateways: Gateways, tmp_path: Path
):
    await node.joins(gateways[0].url)
    await until_calls(2, gateways[0])
    bad = GatewayTarget(url=parse_url("https://127.0.0.1:1"), ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"none\.pem"):
        await node.membership.apply(IDENTITY, [bad], NEVER_S)
    node.membership.changed()
    await until_calls(3, gateways[0])
    assert gateways[0].steps() == ["register", "heartbeat", "heartbeat"]


# Real gateways


@contextlib.asynccontextmanager
async def running(gateway: GatewayProcess) -> AsyncIterator[GatewayProcess]:
    await asyncio.to_thread(gateway.start)
    try:
        yield gateway
    finally:
        await asyncio.to_thread(gateway.stop)


async def is_in_state(gateway: GatewayProcess, state: str) -> bool:
    nodes = (await asyncio.to_thread(gateway.get, "/v1/nodes")).json()["nodes"]
    return [each["state"] for each in nodes] == [state]


async def test_a_node_is_back_within_an_interval_of_its_gateways_restart(
    node: Node, tmp_path: Path
):
    config = {"models": {"critic": {"type": "discovered"}}, "registry": {"stale_after_s": 3}}
    gateway = GatewayProcess(config, tmp_path)
    async with running(gateway):
        await node.joins(f"http://127.0.0.1:{gateway.address[1]}", interval_s=1)
        await until(lambda: is_in_state(gateway, "fresh"))
    await until(lambda: not node.membership.view()[0]["registered"])
    # It comes back and remembers nothing, so the node has to register again.
    gateway.state_path.unlink()
    gateway.configure({**config, "gateway": {"port": gateway.address[1]}})
    async with running(gateway):
        await until(lambda: is_in_state(gateway, "fresh"), 2)  # twice an interval: busy machines
        await node.membership.goodbye()
        assert (await asyncio.to_thread(gateway.get, "/v1/nodes")).json()["nodes"] == []
