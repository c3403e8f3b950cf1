"""What is counted of requests, and what is read when somebody scrapes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rolemesh.core.health import Health
from rolemesh.core.registry import Registry
from rolemesh.core.types import Caller, Heartbeat, Registration, ServedModel
from rolemesh.gateway.figures import Figures
from rolemesh.gateway.models import Availability
from rolemesh.gateway.probes import Prober
from rolemesh.server.inbound import Inbound
from rolemesh.server.metrics import Metrics
from rolemesh.wire.url import parse_url
from tests.gateway.configured import live
from tests.gateway.received import Received, inbound
from tests.gateway.scripted import REFUSED, ScriptedPools, answer

CHAT = "/v1/chat/completions"
LOOPBACK = Caller("loopback")


class House:
    def __init__(self, folder: Path) -> None:
        self.pools = ScriptedPools()
        self.registry = Registry(30.0, 86400.0)
        self.metrics = Metrics()
        self.live = live(folder)
        health = Health()
        prober = Prober(self.pools.as_pools(), health, (b"Via", b"1.1 me"))
        truth = Availability(self.registry, health, prober)
        self.figures = Figures(self.metrics, lambda: self.live, truth)

    def end(self, alias: str | None, outcome: str = "ok", **line: Any) -> None:
        made = request()
        if alias is not None:
            self.metrics.began(alias)
        made.line.alias, made.line.outcome, made.line.status = alias, outcome, 200
        for name, value in line.items():
            setattr(made.line, name, value)
        self.metrics.settle(made)

    def node(self, node_id: str, metrics: dict[str, Any], age_s: float = 0.0) -> None:
        heard = asyncio.get_running_loop().time() - age_s
        model = ServedModel("qwen3", ("reviewer",))
        registration = Registration(node_id, parse_url("http://10.0.0.9"), (model,))
        self.registry.register(registration, LOOPBACK, heard)
        self.registry.heartbeat(Heartbeat(node_id, metrics=metrics), LOOPBACK, heard)

    async def samples(self) -> dict[str, float]:
        """Of a scrape: `name{labels}` and its value."""
        text = (await self.figures.handle(inbound())).body.decode()
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def request(method: str = "POST", path: str = CHAT) -> Inbound:
    return inbound(Received(method=method, path=path))


@pytest.fixture
async def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.pools.plays["writer/proxy"].append(answer())
    return house


async def test_a_request_is_counted_by_its_alias(house: House) -> None:
    house.end("writer", prompt_tokens=3, completion_tokens=4, duration_s=1.0, first_byte_s=0.5)
    samples = await house.samples()
    counted = 'rolemesh_requests_total{alias="writer",outcome="ok",status="200"}'
    assert samples[counted] == 1
    assert samples['rolemesh_tokens_total{alias="writer",kind="prompt"}'] == 3
    assert samples['rolemesh_tokens_total{alias="writer",kind="completion"}'] == 4
    assert samples['rolemesh_request_duration_seconds_sum{alias="writer"}'] == 1.0
    assert samples['rolemesh_time_to_first_byte_seconds_count{alias="writer"}'] == 1
    assert samples['rolemesh_requests_in_flight{alias="writer"}'] == 0


async def test_a_request_without_an_alias_is_somebody_elses(house: House) -> None:
    house.end(None, "rejected")
    samples = await house.samples()
    counted = 'rolemesh_requests_total{alias="_other",outcome="rejected",status="200"}'
    assert samples[counted] == 1
    assert samples['rolemesh_requests_in_flight{alias="_other"}'] == 0


async def test_a_client_that_left_is_counted_by_what_it_left(house: House) -> None:
    for phase in ("upload", "wait", "wait"):
        made = request()
        made.phase, made.line.outcome = phase, "client_abort"
        house.metrics.settle(made)
    samples = await house.samples()
    assert samples['rolemesh_cancelled_total{phase="upload"}'] == 1
    assert samples['rolemesh_cancelled_total{phase="wait"}'] == 2


async def test_only_model_requests_are_counted(house: House) -> None:
    for method, path in (("GET", CHAT), ("POST", "/v1/nodes/register"), ("POST", "/x")):
        house.metrics.settle(request(method, path))
    assert not any(name.startswith("rolemesh_requests_total{") for name in await house.samples())


async def test_backends_and_models_are_looked_at_for_every_scrape(house: House) -> None:
    house.node("gpu-1", {})
    house.pools.plays["gpu-1"].append(REFUSED)
    samples = await house.samples()
    assert samples['rolemesh_upstream_up{backend="writer/proxy"}'] == 1
    assert samples['rolemesh_upstream_up{backend="gpu-1"}'] == 0
    assert samples['rolemesh_model_available{alias="writer"}'] == 1
    assert samples['rolemesh_model_available{alias="reviewer"}'] == 0


async def test_nodes_are_counted_by_state_and_tell_figures_while_they_are_fresh(
    house: House,
) -> None:
    device = {"id": "GPU-1", "memory_used_bytes": 5, "utilization_ratio": 0.5}
    house.node("fresh", {"devices": [device, {"id": "GPU-2"}], "host": {"load1": 0.25}})
    house.node("old", {"devices": [device], "host": {"load1": 9.0}}, age_s=31.0)
    house.node("idle", {})
    house.registry.drain("idle")
    house.pools.plays["fresh"].append(answer())
    samples = await house.samples()
    assert [
        samples[f'rolemesh_nodes{{state="{state}"}}'] for state in ("fresh", "stale", "draining")
    ] == [1, 1, 1]
    of_nodes = {name: value for name, value in samples.items() if "rolemesh_node_" in name}
    assert of_nodes == {
        'rolemesh_node_gpu_memory_used_bytes{gpu="GPU-1",node="fresh"}': 5.0,
        'rolemesh_node_gpu_utilization_ratio{gpu="GPU-1",node="fresh"}': 0.5,
        'rolemesh_node_load1{node="fresh"}': 0.25,
    }
