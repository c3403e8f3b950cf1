"""Nodes that load a model on demand: asked although it is not loaded, waited for, and passed over
for another as long as nothing has come from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body
from tests.script import DONE, Answer, Chunk, Gate, Head, LastChunk, Pass, event

PATH = "/v1/chat/completions"
Node = Callable[..., FakeBackend]


@pytest.fixture(scope="module")
def config() -> Config:
    return {"models": {"critic": {"type": "discovered", "queue_s": 0}}}


@pytest.fixture
def node(gateway: GatewayProcess) -> Iterator[Node]:
    """`node("box", state="STOPPED")`: one that offers a model for the role critic, or several."""
    with contextlib.ExitStack() as stack:

        def make(node_id: str, *others: dict[str, Any], **fields: Any) -> FakeBackend:
            backend = stack.enter_context(FakeBackend())
            told = [{"model_id": "m", "roles": ["critic"], **each} for each in (fields, *others)]
            body = {"node_id": node_id, "base_url": backend.url, "access_token": "t0ken"}
            wish = {**body, "served_models": told}
            assert gateway.post("/v1/nodes/register", wish).status == 200
            stack.callback(gateway.call, "DELETE", f"/v1/nodes/{node_id}")
            return backend

        yield make


@pytest.mark.parametrize("state", ["STOPPED", "LOADING"])
def test_a_model_that_is_not_loaded_is_listed_and_asked_for(
    gateway: GatewayProcess, node: Node, state: str
) -> None:
    name = f"box-{state}"  # what was seen of another is not used
    box = node(name, state=state, slots=2)
    listed = gateway.get("/v1/models").json()
    assert [each["id"] for each in listed["data"]] == ["critic"]
    assert box.probes[0].get("Authorization") == "Bearer t0ken"
    assert gateway.chat("critic").get("X-RoleMesh-Node") == name
    assert box.next().get("Authorization") == "Bearer t0ken"


@pytest.mark.parametrize("comment", [b":\n\n", b": loading\n\n"])
def test_a_comment_of_a_node_that_loads_reaches_the_client_at_once(
    gateway: GatewayProcess, node: Node, comment: bytes
) -> None:
    gates = Gate(), Gate()
    box = node("box", state="STOPPED")
    box.script(
        Head(), Chunk(comment), Pass(gates[0]), Chunk(comment), Pass(gates[1]),
        Chunk(event("Hello.")), Chunk(DONE), LastChunk(),
    )  # fmt: skip
    with gateway.connect() as wire:
        wire.request("POST", PATH, body=chat_body("critic", stream=True))
        pieces = wire.pieces(wire.head())
        for gate in gates:
            assert wire.until(pieces, b"\n\n") == comment
            gate.open()
        assert b"".join(pieces) == event("Hello.") + DONE


@pytest.mark.parametrize("stream", [False, True])
def test_a_load_that_fails_before_anything_was_said_is_the_next_nodes_turn(
    gateway: GatewayProcess, node: Node, stream: bool
) -> None:
    first, second = node("first", state="LOADING"), node("second", state="STOPPED")
    first.otherwise(Answer.error(503))
    second.otherwise(Answer.error(503))
    reply = gateway.chat("critic", stream=stream)
    expect.upstreams_own(reply)
    assert reply.status == 503
    assert len(first.received) == len(second.received) == 1
    second.otherwise()
    second.script(Answer.data(b"{}"))
    first.received.clear()
    assert gateway.chat("critic", stream=stream).get("X-RoleMesh-Node") == "second"


def test_a_load_that_fails_after_a_comment_ends_the_stream_with_an_error(
    gateway: GatewayProcess, node: Node
) -> None:
    box, other = node("box", state="READY"), node("other", state="STOPPED")
    failed = b'data: {"error": {"message": "it failed", "type": "t", "code": "c"}}\n\n'
    box.script(Head(), Chunk(b":\n\n"), Chunk(failed), LastChunk())
    body = gateway.chat("critic", stream=True).body
    assert body.startswith(b":\n\n" + failed)
    assert DONE not in body
    assert other.received == []


def test_a_failed_models_reason_is_seen_by_clients_and_operators(
    gateway: GatewayProcess, node: Node
) -> None:
    why = "exit code 1: failed to load model"
    node("box", state="FATAL", detail=why)
    error = expect.error(gateway.chat("critic"), 503, "no_available_backend")
    assert error["details"] == [
        {"backend": "box", "reason": "model_failed", "detail": f"m on box has failed: {why}"}
    ]
    (out,) = gateway.get("/v1/models").json()["rolemesh"]["unavailable_models"]
    assert (out["reason"], out["detail"]) == ("model_failed", f"m on box has failed: {why}")
    (shown,) = gateway.get("/v1/nodes").json()["nodes"][0]["served_models"]
    assert (shown["state"], shown["detail"]) == ("FATAL", why)


def test_of_one_nodes_models_the_ready_one_is_asked_first_and_then_as_listed(
    gateway: GatewayProcess, node: Node
) -> None:
    cold = [{"model_id": name, "state": "STOPPED"} for name in ("b", "d")]
    box = node("box", *cold, {"model_id": "c", "state": "READY"}, model_id="a", state="LOADING")
    box.otherwise(Answer.error(503))
    gateway.chat("critic")
    assert [received.json()["model"] for received in box.received] == ["c", "a", "b", "d"]
