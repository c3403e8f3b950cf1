"""What is told of models: the list, one of them, and whether the gateway is ready."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rolemesh.core.health import Health
from rolemesh.core.registry import Registry
from rolemesh.core.types import Caller, Registration, ServedModel
from rolemesh.errors import InvalidApiKey, LoopDetected, ModelNotAllowed, ModelNotFound
from rolemesh.gateway.models import Availability, Models
from rolemesh.gateway.probes import Prober
from rolemesh.server.inbound import Answer
from rolemesh.server.request import Request
from rolemesh.wire.url import parse_url
from tests.gateway.configured import live
from tests.gateway.received import Received, inbound
from tests.gateway.scripted import REFUSED, ScriptedPools, answer

AUTH = {
    "client_api_keys": ["c-key", {"name": "limited", "key": "l-key", "models": ["writer"]}],
    "admin_api_keys": ["a-key"],
}
RELOAD = {"result": "success", "at": 1}


class House:
    def __init__(self, folder: Path, **sections: Any) -> None:
        self.pools = ScriptedPools()
        self.registry = Registry(30.0, 86400.0)
        self.live = live(folder, **sections)
        health = Health()
        prober = Prober(self.pools.as_pools(), health, (b"Via", b"1.1 me"))
        truth = Availability(self.registry, health, prober)
        self.models = Models(lambda: self.live, truth, self._refuse_loop, lambda: RELOAD)

    def _refuse_loop(self, request: Request) -> None:
        if request.header("Via") == "1.1 me":
            raise LoopDetected("The request came back.")

    def node(self, node_id: str, age_s: float = 0.0, role: str = "reviewer") -> None:
        model = ServedModel("qwen3", (role,))
        registration = Registration(node_id, parse_url("http://10.0.0.9"), (model,))
        now = asyncio.get_running_loop().time()
        self.registry.register(registration, Caller("loopback"), now - age_s)

    async def every(self, *fields: tuple[str, str]) -> dict[str, Any]:
        return told(await self.models.every(inbound(Received(*fields))))

    async def one(self, model: str, *fields: tuple[str, str]) -> dict[str, Any]:
        return told(await self.models.one(inbound(Received(*fields), id=model)))


def told(given: Answer) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(given.body)
    return values


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path, default_model="writer")


async def test_only_what_is_reachable_now_is_listed_and_the_rest_has_its_reason(
    house: House,
) -> None:
    house.pools.plays["writer/proxy"].append(answer())
    house.node("gpu-1", age_s=42.0)
    listed = await house.every()
    (writer,) = listed["data"]
    assert writer["created"] > 1_700_000_000
    assert writer == {
        "id": "writer",
        "object": "model",
        "created": writer["created"],
        "owned_by": "rolemesh",
        "rolemesh": {"alias": "writer", "type": "proxy", "backends": 1},
    }
    (reviewer,) = listed["rolemesh"]["unavailable_models"]
    assert (reviewer["id"], reviewer["type"], reviewer["reason"]) == (
        "reviewer",
        "discovered",
        "no_fresh_node",
    )
    assert reviewer["detail"] == "gpu-1 stale for 42 s"
    # It has been out since it turned stale, 12 seconds ago.
    assert abs(reviewer["since"] - (writer["created"] - 12)) <= 2
    assert listed["rolemesh"]["default_model"] == "writer"
    assert listed["rolemesh"]["nodes"] == [
        {"node_id": "gpu-1", "state": "stale", "age_s": 42, "roles": ["reviewer"]}
    ]


async def test_a_model_is_up_while_one_of_its_backends_is(house: House) -> None:
    house.pools.plays["writer/proxy"].append(REFUSED)
    house.node("gpu-1")
    house.node("gpu-2")
    house.pools.plays["gpu-1"].append(answer())
    listed = await house.every()
    assert [entry["id"] for entry in listed["data"]] == ["reviewer"]
    (writer,) = listed["rolemesh"]["unavailable_models"]
    assert (writer["id"], writer["reason"]) == ("writer", "connection_refused")
    assert "10.0.0" not in json.dumps(listed)


async def test_a_limited_key_sees_its_models_and_no_nodes(tmp_path: Path) -> None:
    house = House(tmp_path, auth=AUTH, default_model="reviewer")
    house.pools.plays["writer/proxy"].append(answer())
    house.node("gpu-1")
    listed = await house.every(("X-Api-Key", "l-key"))
    assert [entry["id"] for entry in listed["data"]] == ["writer"]
    assert listed["rolemesh"] == {"default_model": None, "unavailable_models": []}
    assert house.pools.asked == ["writer/proxy"]


async def test_keys_are_judged_and_operators_see_the_list_too(tmp_path: Path) -> None:
    house = House(tmp_path, auth=AUTH)
    for path in (house.every, lambda: house.one("writer")):
        with pytest.raises(InvalidApiKey):
            await path()
    house.pools.plays["writer/proxy"].append(answer())
    assert "nodes" in (await house.every(("X-Api-Key", "a-key")))["rolemesh"]
    assert (await house.one("writer", ("X-Api-Key", "c-key")))["id"] == "writer"
    with pytest.raises(ModelNotAllowed) as known:
        await house.one("reviewer", ("X-Api-Key", "l-key"))
    with pytest.raises(ModelNotAllowed) as unknown:
        await house.one("nobody", ("X-Api-Key", "l-key"))
    assert known.value.message == unknown.value.message


async def test_an_unknown_and_an_unavailable_model_are_not_found(house: House) -> None:
    house.pools.plays["writer/proxy"].append(REFUSED)
    for model in ("nobody", "writer", "reviewer"):
        with pytest.raises(ModelNotFound):
            await house.one(model)


async def test_a_model_is_found_by_either_name(tmp_path: Path) -> None:
    model = {"type": "proxy", "proxy_url": "http://10.0.0.3", "openai_model_name": "org/w:8b"}
    house = House(tmp_path, models={"writer": model})
    house.pools.plays["writer/proxy"].append(answer())
    by_name, by_alias = await house.one("org/w:8b"), await house.one("writer")
    assert by_name == by_alias
    assert by_name["id"] == "org/w:8b"


async def test_a_request_that_came_back_is_a_loop(house: House) -> None:
    for path in (house.every, lambda *fields: house.one("writer", *fields)):
        with pytest.raises(LoopDetected):
            await path(("Via", "1.1 me"))


@pytest.mark.parametrize(
    ("default", "plays", "status", "body"),
    [
        ("writer", {"writer/proxy": answer()}, 200, {"status": "ready"}),
        (
            "writer",
            {"writer/proxy": REFUSED},
            503,
            {"status": "unavailable", "reason": "connection_refused"},
        ),
        ("reviewer", {}, 503, {"status": "unavailable", "reason": "no_node"}),
        (None, {"writer/proxy": answer()}, 200, {"status": "ready"}),
        (
            None,
            {"writer/proxy": answer(503)},
            503,
            {"status": "unavailable", "reason": "upstream_status"},
        ),
    ],
)
async def test_ready_speaks_of_the_default_model_and_without_one_of_any(
    tmp_path: Path, default: str | None, plays: dict[str, Any], status: int, body: dict[str, str]
) -> None:
    # Keys do not matter: anyone may ask.
    house = House(tmp_path, default_model=default, auth=AUTH)
    for label, play in plays.items():
        house.pools.plays[label].append(play)
    given = await house.models.ready(inbound())
    assert given.status == status
    said = told(given)
    error = said.pop("error", None)
    assert said == {**body, "last_reload": RELOAD}
    assert (error is None) == (status == 200)
    assert error is None or (error["code"], error["param"]) == ("no_available_backend", None)


async def test_a_gateway_without_models_is_not_ready(tmp_path: Path) -> None:
    house = House(tmp_path, models={})
    given = await house.models.ready(inbound())
    assert (given.status, told(given)["reason"]) == (503, "no_model")
    assert (await house.every())["data"] == []
