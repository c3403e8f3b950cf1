"""Which node a gateway asks, by what nodes say of their models, and what clients see of it."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.mesh.conftest import ROLE, STALE_S, Mesh, model_states, told_of, wait_told
from tests.node_process import NodeProcess, model
from tests.rawhttp import Reply
from tests.script import DONE

PATH = "/v1/chat/completions"


def ask(gateway: GatewayProcess) -> Reply:
    reply = gateway.chat(ROLE, max_tokens=4)
    assert reply.status == 200, reply
    return reply


def asked(gateway: GatewayProcess, times: int = 4) -> set[str | None]:
    """The nodes that answered."""
    return {ask(gateway).get("X-RoleMesh-Node") for _ in range(times)}


def test_a_node_that_has_the_model_ready_is_asked_before_one_that_would_have_to_load_it(
    mesh: Mesh, tiny: Path
) -> None:
    gateway = mesh.gateway()
    cold = mesh.node("cold", gateway, models=[model("a", tiny, roles=[ROLE])])
    mesh.node("warm", gateway, models=[model("b", tiny, roles=[ROLE], preload=True)])
    wait_told(gateway, "cold", a="STOPPED")
    wait_told(gateway, "warm", b="READY")
    assert asked(gateway) == {"warm"}
    assert cold.state("a") == "STOPPED"
    cold.load("a")
    wait_told(gateway, "cold", a="READY")
    assert asked(gateway) == {"cold", "warm"}


def test_why_a_model_failed_is_told_to_clients_without_where_it_is(
    mesh: Mesh, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no weights")
    gateway = mesh.gateway()
    mesh.node("box", gateway, models=[model("m", broken, roles=[ROLE])])
    wait_told(gateway, "box", m="FATAL")
    (out,) = gateway.get("/v1/models").json()["rolemesh"]["unavailable_models"]
    assert (out["id"], out["reason"]) == (ROLE, "model_failed")
    reply = gateway.chat(ROLE)
    (detail,) = reply.json()["error"]["details"]
    assert (reply.status, detail["reason"]) == (503, "model_failed")
    for told in (out["detail"], detail["detail"]):
        assert told.startswith("m on box has failed: ")
        assert "GGUF" in told
        assert str(tmp_path) not in told


def test_a_node_that_was_drained_finishes_and_gets_nothing_new(
    mesh: Mesh, tiny: Path, slow: Path
) -> None:
    gateway = mesh.gateway()
    box = mesh.node("box", gateway, models=[model("s", slow, roles=[ROLE], preload=True)])
    mesh.node("other", gateway, models=[model("t", tiny, roles=[ROLE])])
    wait_told(gateway, "box", s="READY")
    wait_told(gateway, "other", t="STOPPED")
    with gateway.connect(timeout_s=30) as wire:
        wire.request("POST", PATH, body=chat_body(ROLE, stream=True, max_tokens=100))
        head = wire.head()
        pieces = wire.pieces(head)
        wire.until(pieces, b"\n\n")
        assert head.get("X-RoleMesh-Node") == "box"
        assert box.post("/v1/node/drain", {}).status == 200
        # By its own word or by its 503: no gateway has to have heard of it.
        assert asked(gateway) == {"other"}
        wait_told(gateway, "box", s="DRAINING")
        assert box.child("s")["in_flight"] == 1
        assert b"".join(pieces).endswith(DONE)
    assert box.post("/v1/node/resume", {}).status == 200
    wait_told(gateway, "box", s="READY")
    assert "box" in asked(gateway)


def test_a_node_that_was_killed_leaves_its_requests_to_the_other_and_gets_stale(
    mesh: Mesh, tiny: Path
) -> None:
    gateway = mesh.gateway()
    first, _ = (ready(mesh, gateway, name, tiny) for name in ("first", "second"))
    assert asked(gateway) == {"first", "second"}
    first.kill()
    assert asked(gateway, 8) == {"second"}
    assert told_of(gateway, "first")["state"] == "fresh"
    eventually(lambda: told_of(gateway, "first")["state"] == "stale", STALE_S + 2)
    assert gateway.metric("nodes", state="stale") == 1


def ready(mesh: Mesh, gateway: GatewayProcess, name: str, weights: Path) -> NodeProcess:
    node = mesh.node(name, gateway, models=[model("m", weights, roles=[ROLE], preload=True)])
    wait_told(gateway, name, m="READY")
    return node


def test_a_stream_that_waits_long_for_its_model_hears_of_it_through_the_gateway(
    mesh: Mesh, tiny: Path, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    run = f'exec {sys.executable} -m rolemesh.builtin "$@"'
    program.write_text(f'#!/bin/sh\ncase "$*" in *--help*) ;; *) sleep 10.5 ;; esac\n{run}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    gateway = mesh.gateway()
    llama = {"path": str(program), "args": ["--threads", "1", "--cache-ram", "0"]}
    served = [model("m", tiny, roles=[ROLE])]
    mesh.node("box", gateway, models=served, llama_server=llama)
    wait_told(gateway, "box", m="STOPPED")
    with gateway.connect(timeout_s=30) as wire:
        wire.request("POST", PATH, body=chat_body(ROLE, stream=True, max_tokens=4))
        pieces = wire.pieces(wire.head())
        assert wire.until(pieces, b"\n\n") == b":\n\n"
        assert model_states(gateway, "box") == {"m": "LOADING"}
        assert b"".join(pieces).endswith(DONE)
