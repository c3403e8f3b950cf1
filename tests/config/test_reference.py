"""The generated documents are those of today's schema, and the examples load."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from rolemesh.config.load import find_gateway, find_node, load_gateway, load_node
from rolemesh.config.pages import pages
from rolemesh.config.reference import documents
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_node import NodeFile

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", documents(), ids=str)
def test_a_generated_document_is_not_stale(path: Path) -> None:
    assert (ROOT / path).read_text() == documents()[path], (
        "stale: run `python -m rolemesh.config.reference`"
    )


DOCUMENTS = [
    (GatewayFile, "docs/configuration-reference.md"),
    (GatewayFile, "man/rolemesh.yaml.5"),
    (NodeFile, "docs/node-configuration-reference.md"),
    (NodeFile, "man/rolemesh-node.yaml.5"),
]


@pytest.mark.parametrize(("schema", "path"), DOCUMENTS)
def test_every_key_of_the_schema_is_in_its_documents(schema: type, path: str) -> None:
    text = documents()[Path(path)]
    for page in pages(schema):
        for row in page.rows:
            assert re.search(rf"\b{row.name}\b", text), row.name
            assert row.doc
            assert row.takes


@pytest.mark.parametrize("schema", [GatewayFile, NodeFile])
def test_a_section_appears_once(schema: type) -> None:
    places = [(page.path, page.case) for page in pages(schema)]
    assert len(places) == len(set(places))


def test_the_example_pair_loads_as_it_is() -> None:
    base, local = ROOT / "etc/gateway.example.yaml", ROOT / "etc/gateway.local.example.yaml"
    alone = load_gateway(find_gateway(str(base), (), {}), {}).config
    assert set(alone.models) == {"planner", "writer", "reviewer"}
    both = load_gateway(
        find_gateway(str(base), (str(local),), {}), {"ROLE_MESH_PORT": "8001"}
    ).config
    assert set(both.models) == {"planner", "writer"}
    assert both.gateway.port == 8001
    assert both.models["planner"].offer.defaults == {"temperature": 0.2, "max_tokens": 1024}


def test_the_nodes_example_pair_loads_as_it_is() -> None:
    base, local = ROOT / "etc/node.example.yaml", ROOT / "etc/node.local.example.yaml"
    alone = load_node(find_node(str(base), (), {}), {}).config
    assert [model.model_id for model in alone.models] == ["qwen3-8b", "gemma-3-4b"]
    both = load_node(find_node(str(base), (str(local),), {}), {}).config
    assert (both.node.node_id, both.llama_server.path) == ("my-box", "builtin")
    assert (both.gateways, both.timeouts.queue_s) == (alone.gateways, 300)


def test_the_nodes_of_the_example_offer_what_their_gateway_wants() -> None:
    folder = ROOT / "etc/example-multi-node"
    gateway = load_gateway(find_gateway(f"{folder}/gateway.yaml", (), {}), {}).config
    files = sorted(folder.glob("node-*.yaml"))
    nodes = [load_node(find_node(str(path), (), {}), {}).config for path in files]
    (key,) = gateway.auth.node_api_keys
    assert tuple(node.node.node_id for node in nodes) == key.node_ids
    roles = {role for node in nodes for model in node.models for role in model.roles}
    assert roles == set(gateway.models) == set(key.roles or ())
    for node in nodes:
        url, (target,) = node.node.advertise_url, node.gateways
        assert url is not None
        assert url.port == node.node.port
        assert any(ip_address(url.host) in network for network in key.networks or ())
        assert (target.url.host, target.url.port) == ("10.0.0.1", gateway.gateway.port)


def test_the_examples_sample_keys_stay_on_loopback() -> None:
    base = ROOT / "etc/gateway.example.yaml"
    config = load_gateway(find_gateway(str(base), (), {}), {}).config
    assert all(
        (each.source.key or "").startswith("change-me") for each in config.auth.client_api_keys
    )
