"""What nodes and operators say of nodes, and who may say it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rolemesh.core.health import Health
from rolemesh.core.registry import Registry
from rolemesh.errors import (
    InvalidApiKey,
    InvalidJson,
    NotAllowed,
    RequestTooLarge,
    RoleMeshError,
    UnknownNode,
)
from rolemesh.gateway.models import Availability
from rolemesh.gateway.nodes import Nodes
from rolemesh.gateway.probes import Prober
from rolemesh.gateway.slots import Slots
from rolemesh.server.inbound import Answer
from tests.gateway.configured import live
from tests.gateway.received import Received, inbound
from tests.gateway.scripted import REFUSED, ScriptedPools, answer

NODE, OTHER, ADMIN = (
    ("X-RoleMesh-Node-Key", "n"),
    ("X-RoleMesh-Node-Key", "o"),
    ("X-Api-Key", "a"),
)
AUTH = {
    "node_api_keys": [
        {"name": "any", "key": "n"},
        {"name": "one", "key": "o", "node_ids": ["gpu-2"], "roles": ["writer"]},
    ],
    "admin_api_keys": ["a"],
}
WISH = {
    "node_id": "gpu-1",
    "base_url": "http://10.0.0.9:8014",
    "served_models": [{"model_id": "qwen3", "roles": ["reviewer"], "slots": 2}],
    "access_token": "s3cret",
}


class House:
    def __init__(self, folder: Path, **sections: Any) -> None:
        self.pools = ScriptedPools()
        self.registry = Registry(30.0, 86400.0)
        self.slots = Slots()
        self.changes = 0
        self.live = live(folder, **{"auth": AUTH, **sections})
        health = Health()
        prober = Prober(self.pools.as_pools(), health, (b"Via", b"1.1 me"))
        truth = Availability(self.registry, health, prober)
        self.nodes = Nodes(lambda: self.live, truth, self.slots, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def say(
        self, what: str, key: tuple[str, str] | None, body: Any = None, **params: str
    ) -> Any:
        fields = () if key is None else (key,)
        received = Received(*fields, method="POST", body=json.dumps(body).encode())
        given: Answer = await getattr(self.nodes, what)(inbound(received, **params))
        assert given.status == 200
        return json.loads(given.body)


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def refusal(house: House, what: str, *told: Any, **params: str) -> RoleMeshError:
    with pytest.raises(RoleMeshError) as raised:
        await house.say(what, *told, **params)
    return raised.value


async def test_a_node_registers_and_is_told_when_to_come_again(house: House) -> None:
    assert await house.say("register", NODE, WISH) == {
        "status": "ok",
        "node_id": "gpu-1",
        "heartbeat_interval_s": 10,
        "stale_after_s": 30,
    }
    assert house.changes == 1
    lease = house.registry.get("gpu-1")
    assert lease is not None
    assert lease.access_token == "s3cret"


async def test_another_node_of_the_same_name_is_told_of(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for wish in (WISH, WISH, {**WISH, "base_url": "http://10.0.0.10:8014"}):
        assert not caplog.messages
        await house.say("register", NODE, wish)
    told = "gpu-1 registered from http://10.0.0.10:8014 without having left http://10.0.0.9:8014:"
    assert caplog.messages == [f"{told} do two nodes have this node_id?"]
    await house.say("register", NODE, {**WISH, "access_token": "another"})
    assert len(caplog.messages) == 2


async def test_a_heartbeat_renews_and_an_unknown_node_is_told_so(house: House) -> None:
    assert type(await refusal(house, "heartbeat", NODE, {"node_id": "gpu-1"})) is UnknownNode
    await house.say("register", NODE, WISH)
    assert (await house.say("heartbeat", NODE, {"node_id": "gpu-1"}))["heartbeat_interval_s"] == 10


@pytest.mark.parametrize("what", ["register", "heartbeat"])
async def test_a_node_needs_a_nodes_key(house: House, what: str) -> None:
    for key in (None, ADMIN, ("X-RoleMesh-Node-Key", "wrong")):
        # Judged before the body is looked at.
        assert type(await refusal(house, what, key, "no registration")) is InvalidApiKey
    assert type(await refusal(house, what, NODE, "no registration")) is InvalidJson


async def test_a_limited_key_stays_within_its_limits(house: House) -> None:
    await house.say("register", NODE, WISH)
    mine = {**WISH, "node_id": "gpu-2", "served_models": [{"model_id": "m", "roles": ["writer"]}]}
    await house.say("register", OTHER, mine)
    for what, body in [
        ("register", WISH),
        ("register", {**WISH, "node_id": "gpu-2"}),
        ("heartbeat", {"node_id": "gpu-1"}),
        ("heartbeat", {"node_id": "gpu-2", "served_models": WISH["served_models"]}),
    ]:
        assert type(await refusal(house, what, OTHER, body)) is NotAllowed
    assert type(await refusal(house, "goodbye", OTHER, node_id="gpu-1")) is NotAllowed
    await house.say("goodbye", OTHER, node_id="gpu-2")


async def test_a_registration_has_a_bound(tmp_path: Path) -> None:
    house = House(tmp_path, gateway={"max_body_bytes": 100})
    assert type(await refusal(house, "register", NODE, WISH)) is RequestTooLarge


@pytest.mark.parametrize("key", [NODE, ADMIN])
async def test_nodes_and_operators_may_say_goodbye(house: House, key: tuple[str, str]) -> None:
    await house.say("register", NODE, WISH)
    assert await house.say("goodbye", key, node_id="gpu-1") == {"status": "ok", "node_id": "gpu-1"}
    assert house.registry.get("gpu-1") is None
    assert house.changes == 2
    assert type(await refusal(house, "goodbye", key, node_id="gpu-1")) is UnknownNode


async def test_goodbye_needs_a_key(house: House) -> None:
    await house.say("register", NODE, WISH)
    assert type(await refusal(house, "goodbye", None, node_id="gpu-1")) is InvalidApiKey
    assert house.registry.get("gpu-1") is not None


async def test_an_operator_drains_and_resumes(house: House) -> None:
    await house.say("register", NODE, WISH)
    told = {"status": "ok", "node_id": "gpu-1"}
    assert await house.say("drain", ADMIN, node_id="gpu-1") == {**told, "state": "draining"}
    await house.say("goodbye", NODE, node_id="gpu-1")
    await house.say("register", NODE, WISH)
    assert house.registry.drains == {"gpu-1"}
    assert await house.say("resume", ADMIN, node_id="gpu-1") == {**told, "state": "fresh"}
    await house.say("drain", ADMIN, node_id="gpu-1")
    await house.say("goodbye", NODE, node_id="gpu-1")
    assert await house.say("resume", ADMIN, node_id="gpu-1") == told
    for what in ("drain", "resume"):
        assert type(await refusal(house, what, ADMIN, node_id="gpu-1")) is UnknownNode
        assert type(await refusal(house, what, NODE, node_id="gpu-1")) is InvalidApiKey


async def test_operators_see_every_node_and_backend(house: House) -> None:
    await house.say("register", NODE, WISH)
    await house.say("register", NODE, {**WISH, "node_id": "gpu-2"})
    await house.say("drain", ADMIN, node_id="gpu-2")
    (candidate,) = house.registry.serving("reviewer", asyncio.get_running_loop().time()).candidates
    house.slots.take([candidate])
    house.pools.plays["writer/proxy"].append(answer())
    house.pools.plays["gpu-1"].append(REFUSED)
    told = await house.say("every", ADMIN)
    assert [(node["node_id"], node["state"], node["reason"]) for node in told["nodes"]] == [
        ("gpu-1", "fresh", "connection_refused"),
        ("gpu-2", "draining", "node_draining"),
    ]
    assert told["nodes"][0]["served_models"][0]["in_flight"] == 1
    assert [(each["alias"], each["state"]) for each in told["backends"]] == [
        ("writer", "reachable")
    ]
    assert told["drains"] == ["gpu-2"]
    assert "s3cret" not in json.dumps(told)
    for key in (None, NODE):
        assert type(await refusal(house, "every", key)) is InvalidApiKey
