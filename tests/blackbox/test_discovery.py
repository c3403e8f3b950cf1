"""Requests to discovered models: which node gets them, and which one does not."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.script import Answer, Gate, Pass, completion

STALE_S = 1.0
Boxes = Callable[..., list[FakeBackend]]


@pytest.fixture(scope="module")
def config() -> Config:
    def discovered(role: str, **fields: Any) -> dict[str, Any]:
        return {"type": "discovered", "role": role, "queue_s": 0, **fields}

    return {
        "registry": {"stale_after_s": 3600},
        "models": {
            "reviewer": {"type": "discovered"},
            **{f"rotate-{n}": discovered(f"rotate-{n}") for n in range(8)},
            "by-chance": discovered("by-chance", strategy="random"),
            "any-state": discovered("any-state", prefer_ready=False),
        },
    }


@pytest.fixture
def boxes(gateway: GatewayProcess, request: pytest.FixtureRequest) -> Iterator[Boxes]:
    """`boxes("role", 3)`: three nodes of their own backends, registered."""
    with contextlib.ExitStack() as stack:

        def make(role: str, count: int = 1, **fields: Any) -> list[FakeBackend]:
            made = [stack.enter_context(FakeBackend()) for _ in range(count)]
            for number, backend in enumerate(made):
                beat(gateway, f"{role}.{number}", backend, role, **fields)
                stack.callback(gateway.call, "DELETE", f"/v1/nodes/{role}.{number}")
            return made

        yield make


def beat(
    gateway: GatewayProcess, node_id: str, backend: FakeBackend, role: str, **fields: Any
) -> None:
    told = {name: fields.pop(name) for name in list(fields) if name in ("access_token", "meta")}
    model = {"model_id": f"{role}-gguf", "roles": [role], **fields}
    node = {"node_id": node_id, "base_url": backend.url, "served_models": [model], **told}
    assert gateway.post("/v1/nodes/register", node).status == 200


def asked(gateway: GatewayProcess, alias: str, times: int) -> Counter[str | None]:
    return Counter(gateway.chat(alias).get("X-RoleMesh-Node") for _ in range(times))


def test_a_node_gets_the_request_with_the_model_it_knows(
    gateway: GatewayProcess, boxes: Boxes
) -> None:
    (box,) = boxes("reviewer", access_token="nodes-own-token")
    reply = gateway.chat("reviewer", [("Authorization", "Bearer the-clients")])
    assert reply.get("X-RoleMesh-Node") == "reviewer.0"
    assert reply.get("X-RoleMesh-Backend") is None
    assert reply.get("X-RoleMesh-Model") == "reviewer-gguf"
    received = box.next()
    assert received.json()["model"] == "reviewer-gguf"
    assert received.get("Authorization") == "Bearer nodes-own-token"


def test_no_credential_is_sent_to_a_node_that_gave_none(
    gateway: GatewayProcess, boxes: Boxes
) -> None:
    (box,) = boxes("reviewer")
    gateway.chat("reviewer", [("Authorization", "Bearer the-clients")])
    assert box.next().get("Authorization") is None


def test_no_node_at_all(gateway: GatewayProcess) -> None:
    error = expect.error(gateway.chat("reviewer"), 503, "no_available_backend")
    assert [entry["reason"] for entry in error["details"]] == ["no_node"]


def test_requests_go_round(gateway: GatewayProcess, boxes: Boxes) -> None:
    boxes("rotate-0", 3)
    assert set(asked(gateway, "rotate-0", 9).values()) == {3}


def test_chance_reaches_everybody(gateway: GatewayProcess, boxes: Boxes) -> None:
    boxes("by-chance", 2)
    assert set(asked(gateway, "by-chance", 40)) == {"by-chance.0", "by-chance.1"}


def test_a_node_that_fails_leaves_it_to_the_next(gateway: GatewayProcess, boxes: Boxes) -> None:
    first, _second = boxes("rotate-1", 2)
    first.stop()
    assert asked(gateway, "rotate-1", 6) == {"rotate-1.1": 6}


def test_ready_models_come_first(gateway: GatewayProcess, boxes: Boxes) -> None:
    loading, ready, stopped = boxes("rotate-2", 3)
    beat(gateway, "rotate-2.0", loading, "rotate-2", state="LOADING")
    beat(gateway, "rotate-2.1", ready, "rotate-2", state="READY")
    beat(gateway, "rotate-2.2", stopped, "rotate-2", state="STOPPED")
    assert asked(gateway, "rotate-2", 4) == {"rotate-2.1": 4}
    ready.stop()
    others = asked(gateway, "rotate-2", 4)
    assert set(others) == {"rotate-2.0", "rotate-2.2"}


def test_preference_can_be_switched_off(gateway: GatewayProcess, boxes: Boxes) -> None:
    stopped, ready = boxes("any-state", 2)
    beat(gateway, "any-state.0", stopped, "any-state", state="STOPPED")
    beat(gateway, "any-state.1", ready, "any-state", state="READY")
    assert len(asked(gateway, "any-state", 6)) == 2


@pytest.mark.parametrize("state", ["FATAL", "DRAINING"])
def test_a_model_that_says_no_is_left_out(
    gateway: GatewayProcess, boxes: Boxes, state: str
) -> None:
    out, _ready = boxes("rotate-3", 2)
    beat(gateway, "rotate-3.0", out, "rotate-3", state=state)
    assert asked(gateway, "rotate-3", 4) == {"rotate-3.1": 4}
    gateway.call("DELETE", "/v1/nodes/rotate-3.1")
    expect.error(gateway.chat("rotate-3"), 503, "no_available_backend")


def test_a_node_that_has_left_is_in_no_metric(gateway: GatewayProcess, boxes: Boxes) -> None:
    boxes("rotate-7")
    assert gateway.chat("rotate-7").status == 200
    gateway.call("GET", "/v1/models")
    metrics = gateway.call("GET", "/metrics").body
    assert b'attempts_total{backend="rotate-7.0"' in metrics
    gateway.call("DELETE", "/v1/nodes/rotate-7.0")
    assert b"rotate-7.0" not in gateway.call("GET", "/metrics").body


def test_one_model_may_have_several_roles(gateway: GatewayProcess, boxes: Boxes) -> None:
    (box,) = boxes("rotate-4")
    model = {"model_id": "both", "roles": ["rotate-4", "rotate-5"]}
    node = {"node_id": "rotate-4.0", "base_url": box.url, "served_models": [model]}
    gateway.post("/v1/nodes/register", node)
    for alias in ("rotate-4", "rotate-5"):
        assert gateway.chat(alias).get("X-RoleMesh-Model") == "both"


# Draining


def test_a_drained_node_finishes_and_gets_nothing_new(
    gateway: GatewayProcess, boxes: Boxes
) -> None:
    (box,) = boxes("rotate-6")
    gate = Gate()
    box.script(Pass(gate), Answer.json(completion("in flight")))
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(gateway.chat, "rotate-6")
        box.next()
        assert gateway.post("/v1/nodes/rotate-6.0/drain", b"").status == 200
        error = expect.error(gateway.chat("rotate-6"), 503, "no_available_backend")
        assert {entry["reason"] for entry in error["details"]} == {"node_draining"}
        gate.open()
        assert held.result(5).json() == completion("in flight")
    beat(gateway, "rotate-6.0", box, "rotate-6")
    assert gateway.chat("rotate-6").status == 503
    gateway.call("DELETE", "/v1/nodes/rotate-6.0")
    beat(gateway, "rotate-6.0", box, "rotate-6")
    assert gateway.chat("rotate-6").status == 503
    assert gateway.get("/v1/nodes").json()["nodes"][0]["state"] == "draining"
    assert gateway.post("/v1/nodes/rotate-6.0/resume", b"").status == 200
    assert gateway.chat("rotate-6").status == 200


@pytest.mark.parametrize("verb", ["drain", "resume"])
def test_an_unknown_node_cannot_be_drained(gateway: GatewayProcess, verb: str) -> None:
    expect.error(gateway.post(f"/v1/nodes/never/{verb}", b""), 404, "unknown_node", echo="never")


# Going stale, and coming back


def test_a_stale_node_gets_nothing_until_it_is_heard_of_again(
    tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend
) -> None:
    config = {
        "registry": {"stale_after_s": STALE_S, "forget_after_s": 3},
        "models": {"critic": {"type": "discovered"}},
    }
    with GatewayProcess(config, tmp_path_factory.mktemp("stale")) as gateway:
        beat(gateway, "box", backend, "critic")
        assert gateway.chat("critic").status == 200
        time.sleep(STALE_S + 0.2)
        error = expect.error(gateway.chat("critic"), 503, "no_available_backend")
        assert {"no_fresh_node", "node_stale"} >= {each["reason"] for each in error["details"]}
        (out,) = gateway.get("/v1/models").json()["rolemesh"]["unavailable_models"]
        assert (out["alias"], out["reason"]) == ("critic", "no_fresh_node")
        (node,) = gateway.get("/v1/models").json()["rolemesh"]["nodes"]
        assert (node["node_id"], node["state"], node["roles"]) == ("box", "stale", ["critic"])
        assert gateway.metric("nodes", state="stale") == 1
        assert gateway.post("/v1/nodes/heartbeat", {"node_id": "box"}).status == 200
        assert gateway.chat("critic").status == 200
        time.sleep(3.5)
        assert gateway.get("/v1/nodes").json()["nodes"] == []
        beat_again = gateway.post("/v1/nodes/heartbeat", {"node_id": "box"})
        expect.error(beat_again, 404, "unknown_node")
