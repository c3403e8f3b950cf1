"""Nodes and gateways know each other again: after the restart of either, and when a gateway has
forgotten; and a gateway lets in only whom its keys let in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gateway_process import GatewayProcess, eventually
from tests.mesh.conftest import KEY, ROLE, Mesh, told_of, wait_fresh, wait_told
from tests.node_process import NodeProcess, model


@pytest.fixture
def pair(mesh: Mesh, tiny: Path) -> tuple[GatewayProcess, NodeProcess]:
    """A gateway and a node whose model is READY there."""
    gateway = mesh.gateway()
    node = mesh.node("box", gateway, models=[model("m", tiny, roles=[ROLE], preload=True)])
    wait_told(gateway, "box", m="READY")
    return gateway, node


def serves(gateway: GatewayProcess) -> bool:
    return gateway.chat(ROLE, max_tokens=4).status == 200


def token_of(node: NodeProcess) -> str:
    token: str = json.loads(node.state_path.read_text())["data"]["access_token"]
    return token


def test_a_gateway_that_comes_back_knows_its_nodes_before_it_hears_of_them(
    pair: tuple[GatewayProcess, NodeProcess],
) -> None:
    gateway, node = pair
    gateway.stop()
    gateway.start()
    assert serves(gateway)
    lost = [line for line in node.lines if "not registered" in str(line.get("message"))]
    eventually(lambda: told_of(gateway, "box")["age_s"] < 0.5)
    wait_fresh(gateway, "box")
    assert len(lost) <= 1


def test_a_node_that_comes_back_keeps_its_token(pair: tuple[GatewayProcess, NodeProcess]) -> None:
    gateway, node = pair
    token = token_of(node)
    for end in (node.stop, node.kill):
        end()
        node.start()
        wait_told(gateway, "box", m="READY")
        assert serves(gateway)
        assert token_of(node) == token
    assert len(gateway.get("/v1/nodes").json()["nodes"]) == 1


def test_a_node_that_ends_says_goodbye(pair: tuple[GatewayProcess, NodeProcess]) -> None:
    gateway, node = pair
    node.stop()
    assert told_of(gateway, "box") == {}
    (out,) = gateway.get("/v1/models").json()["rolemesh"]["unavailable_models"]
    assert out["reason"] == "no_node"


def test_a_gateway_that_has_forgotten_the_node_gets_its_registration_again(
    pair: tuple[GatewayProcess, NodeProcess],
) -> None:
    gateway, node = pair
    gateway.kill()
    gateway.state_path.unlink()
    gateway.start()
    wait_told(gateway, "box", m="READY")
    assert serves(gateway)
    node.wait_line(lambda line: "does not know the node" in str(line.get("message")))


def test_what_a_gateway_refuses_is_told_by_the_node(mesh: Mesh, tiny: Path) -> None:
    limits = {"box": {"node_ids": ["other"]}, "tub": {"roles": ["writer"]}}
    keys = [{"name": name, "key": f"{KEY}-{name}", **limits[name]} for name in limits]
    gateway = mesh.gateway(auth={"node_api_keys": keys})
    url = f"http://127.0.0.1:{gateway.address[1]}"
    for name, word in (("box", "node_id"), ("tub", "role")):
        node = mesh.node(
            name, models=[model("m", tiny, roles=[ROLE])],
            gateways=[{"url": url, "node_key": f"{KEY}-{name}"}],
        )  # fmt: skip
        node.wait_line(lambda line: "not registered" in str(line.get("message")))
        (told,) = node.view()["gateways"]
        assert told["registered"] is False
        assert word in told["last_error"]["message"]
        assert "403" in told["last_error"]["message"]
        assert node.metric("gateway_registered") == 0
        assert KEY not in node.text
    assert gateway.get("/v1/nodes").json()["nodes"] == []


def test_a_node_answers_its_gateways_and_its_operators_and_nobody_else(
    mesh: Mesh, tiny: Path
) -> None:
    gateway = mesh.gateway()
    operators = [{"name": "me", "key": "operators-own"}]
    served = [model("m", tiny, roles=[ROLE])]
    node = mesh.node("box", gateway, models=served, node={"api_keys": operators})
    wait_told(gateway, "box", m="STOPPED")
    me = [("Authorization", "Bearer operators-own")]
    gateways = [("Authorization", f"Bearer {token_of(node)}")]
    assert serves(gateway)
    for headers, asks, operates in (([], 401, 401), (gateways, 200, 401), (me, 200, 200)):
        assert node.chat("m", headers, max_tokens=1).status == asks
        assert node.get("/v1/node", headers).status == operates
