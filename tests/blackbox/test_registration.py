"""Nodes: register, heartbeat, goodbye; what a registration may say, and what a key may register."""

from __future__ import annotations

from typing import Any

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.rawhttp import Reply
from tests.script import Die

NODE: dict[str, Any] = {
    "node_id": "gpu-box-1",
    "base_url": "http://127.0.0.1:9",
    "served_models": [{"model_id": "qwen3-8b", "roles": ["reviewer"], "meta": {"quant": "Q5"}}],
    "meta": {"gpu": "Tesla P40"},
}


@pytest.fixture(scope="module")
def config() -> Config:
    return {
        "registry": {"stale_after_s": 30},
        "auth": {
            "node_api_keys": [
                "any-node",
                {"name": "boxes", "key": "boxes-key", "node_ids": ["box-1", "box-2"]},
                {"name": "critics", "key": "critics-key", "roles": ["critic"]},
                {"name": "here", "key": "here-key", "networks": ["127.0.0.0/8", "::1/128"]},
                {"name": "far", "key": "far-key", "networks": ["10.0.0.0/8"]},
            ],
            "admin_api_keys": ["admin"],
        },
        "models": {
            role: {"type": "discovered", "role": role}
            for role in ("reviewer", "writer", "critic", "far")
        },
    }


def register(gateway: GatewayProcess, key: str = "any-node", **fields: Any) -> Reply:
    node = {name: value for name, value in {**NODE, **fields}.items() if value is not ...}
    return gateway.post("/v1/nodes/register", node, [("Authorization", f"Bearer {key}")])


def heartbeat(gateway: GatewayProcess, key: str = "any-node", **fields: Any) -> Reply:
    return gateway.post("/v1/nodes/heartbeat", fields, [("X-RoleMesh-Node-Key", key)])


def goodbye(gateway: GatewayProcess, node_id: str, key: str = "any-node") -> Reply:
    return gateway.call("DELETE", f"/v1/nodes/{node_id}", [("Authorization", f"Bearer {key}")])


def nodes(gateway: GatewayProcess) -> dict[str, Any]:
    listed = gateway.get("/v1/nodes", [("Authorization", "Bearer admin")]).json()
    return {node["node_id"]: node for node in listed["nodes"]}


def test_a_registration_is_answered_with_the_rhythm(gateway: GatewayProcess) -> None:
    for _ in range(2):
        reply = register(gateway)
        assert (reply.status, reply.json()) == (
            200,
            {
                "status": "ok",
                "node_id": "gpu-box-1",
                "heartbeat_interval_s": 10,
                "stale_after_s": 30,
            },
        )


def test_the_rhythm_is_a_third_of_a_short_lease(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("short")
    env = {"ROLE_MESH_NODE_STALE_AFTER_S": "6"}
    with GatewayProcess({"registry": {"stale_after_s": 99}}, directory, env=env) as gateway:
        told = gateway.post("/v1/nodes/register", NODE).json()
        assert (told["heartbeat_interval_s"], told["stale_after_s"]) == (2, 6)


def test_what_was_registered_is_shown(gateway: GatewayProcess) -> None:
    register(gateway)
    shown = nodes(gateway)["gpu-box-1"]
    assert shown["state"] == "fresh"
    assert shown["age_s"] < 5
    assert shown["meta"] == {"gpu": "Tesla P40"}
    assert shown["served_models"][0]["model_id"] == "qwen3-8b"
    assert shown["served_models"][0]["meta"] == {"quant": "Q5"}


def test_registering_again_replaces_what_was_said(gateway: GatewayProcess) -> None:
    register(gateway)
    register(gateway, served_models=[{"model_id": "b", "roles": ["writer"]}], meta=...)
    shown = nodes(gateway)["gpu-box-1"]
    assert [model["model_id"] for model in shown["served_models"]] == ["b"]
    assert shown["meta"] == {}


def test_the_flat_form_means_a_model_per_role(gateway: GatewayProcess) -> None:
    reply = register(gateway, node_id="flat", served_models=..., roles=["writer", "critic"])
    assert reply.status == 200
    served = nodes(gateway)["flat"]["served_models"]
    assert [(model["model_id"], model["roles"]) for model in served] == [
        ("writer", ["writer"]),
        ("critic", ["critic"]),
    ]
    goodbye(gateway, "flat")


def test_unknown_fields_are_ignored(gateway: GatewayProcess) -> None:
    model = {"model_id": "m", "roles": ["writer"], "colour": "red"}
    assert register(gateway, served_models=[model], version=7, x={"y": [None]}).status == 200


def test_a_node_that_says_goodbye_is_gone(gateway: GatewayProcess) -> None:
    register(gateway, node_id="short-lived")
    assert goodbye(gateway, "short-lived").status == 200
    assert "short-lived" not in nodes(gateway)
    expect.error(goodbye(gateway, "short-lived"), 404, "unknown_node")
    register(gateway, node_id="short-lived")
    assert goodbye(gateway, "short-lived", "admin").status == 200
    expect.error(goodbye(gateway, "short-lived", "wrong"), 401, "invalid_api_key")


def test_the_heartbeat_of_an_unknown_node_is_refused(gateway: GatewayProcess) -> None:
    reply = heartbeat(gateway, node_id="never-seen")
    expect.error(reply, 404, "unknown_node", echo="never-seen")


def test_a_heartbeat_may_replace_the_models(gateway: GatewayProcess) -> None:
    register(gateway)
    assert heartbeat(gateway, node_id="gpu-box-1").status == 200
    assert nodes(gateway)["gpu-box-1"]["served_models"][0]["model_id"] == "qwen3-8b"
    models = [{"model_id": "new", "roles": ["writer"], "state": "LOADING", "slots_busy": 1}]
    assert heartbeat(gateway, node_id="gpu-box-1", served_models=models).status == 200
    assert nodes(gateway)["gpu-box-1"]["served_models"][0]["model_id"] == "new"
    assert heartbeat(gateway, node_id="gpu-box-1", served_models=[]).status == 200
    assert nodes(gateway)["gpu-box-1"]["served_models"] == []


METRICS = {
    "devices": [
        {
            "id": "GPU-1",
            "name": 'a "card"',
            "memory_used_bytes": 1000,
            "memory_total_bytes": 2000,
            "utilization_ratio": 0.5,
            "temperature_celsius": 60,
            "power_watts": 150.5,
        }
    ],
    "host": {"load1": 0.25, "memory_used_bytes": 3000, "memory_total_bytes": 4000},
}


def test_a_heartbeats_metrics_are_shown(gateway: GatewayProcess) -> None:
    register(gateway)
    assert heartbeat(gateway, node_id="gpu-box-1", metrics=METRICS).status == 200
    shown = nodes(gateway)["gpu-box-1"]
    assert shown["devices"] == METRICS["devices"]
    assert gateway.metric("node_gpu_memory_used_bytes", node="gpu-box-1", gpu="GPU-1") == 1000
    assert gateway.metric("node_gpu_memory_total_bytes", node="gpu-box-1") == 2000
    assert gateway.metric("node_gpu_utilization_ratio", node="gpu-box-1") == 0.5
    assert gateway.metric("node_gpu_temperature_celsius", node="gpu-box-1") == 60
    assert gateway.metric("node_gpu_power_watts", node="gpu-box-1") == 150.5
    goodbye(gateway, "gpu-box-1")
    assert gateway.metric("node_gpu_memory_used_bytes", node="gpu-box-1") == 0


MODEL: dict[str, Any] = {"model_id": "m", "roles": ["writer"]}
WRONG: list[tuple[str, Any, str]] = [
    ("node_id", ..., "node_id"),
    ("node_id", 1, "node_id"),
    ("node_id", "", "node_id"),
    ("node_id", "a b", "node_id"),
    ("node_id", "a/b", "node_id"),
    ("node_id", "ä", "node_id"),
    ("node_id", "a\n", "node_id"),
    ("node_id", "x" * 65, "node_id"),
    ("base_url", ..., "base_url"),
    ("base_url", 1, "base_url"),
    ("base_url", "", "base_url"),
    ("base_url", "127.0.0.1:8000", "base_url"),
    ("base_url", "http://", "base_url"),
    ("base_url", "ftp://127.0.0.1", "base_url"),
    ("base_url", "file:///etc/passwd", "base_url"),
    ("base_url", "unix:/run/x", "base_url"),
    ("base_url", "http://user:MARKER@127.0.0.1", "base_url"),
    ("base_url", "http://user@127.0.0.1", "base_url"),
    ("base_url", "http://127.0.0.1/?a=MARKER", "base_url"),
    ("base_url", "http://127.0.0.1/?", "base_url"),
    ("base_url", "http://127.0.0.1/#a", "base_url"),
    ("base_url", "http://127.0.0.1/#", "base_url"),
    ("base_url", "http://127.0.0.1/a\nb", "base_url"),
    ("base_url", "http://127.0.0.1/a\x00", "base_url"),
    ("base_url", "http://127.0.0.1/a b", "base_url"),
    ("base_url", " http://127.0.0.1", "base_url"),
    ("base_url", "http://127.0.0.1\\@evil.example", "base_url"),
    ("base_url", "http://127.0.0.1:0", "base_url"),
    ("base_url", "http://127.0.0.1:99999", "base_url"),
    ("base_url", "http://127.0.0.1:port", "base_url"),
    ("base_url", "http://[::1", "base_url"),
    ("served_models", "m", "served_models"),
    ("served_models", {}, "served_models"),
    ("served_models", ["m"], "served_models[0]"),
    ("served_models", [{"roles": ["a"]}], "served_models[0].model_id"),
    ("served_models", [MODEL, {**MODEL, "model_id": 1}], "served_models[1].model_id"),
    ("served_models", [{**MODEL, "model_id": ""}], "served_models[0].model_id"),
    ("served_models", [{"model_id": "m"}], "served_models[0].roles"),
    ("served_models", [{**MODEL, "roles": "writer"}], "served_models[0].roles"),
    ("served_models", [{**MODEL, "roles": [1]}], "served_models[0].roles"),
    ("served_models", [{**MODEL, "meta": []}], "served_models[0].meta"),
    ("served_models", [{**MODEL, "state": "SLEEPING"}], "served_models[0].state"),
    ("served_models", [{**MODEL, "slots": "2"}], "served_models[0].slots"),
    ("served_models", [{**MODEL, "slots": -1}], "served_models[0].slots"),
    ("served_models", [{**MODEL, "slots": True}], "served_models[0].slots"),
    ("served_models", [{**MODEL, "max_context": 1.5}], "served_models[0].max_context"),
    ("served_models", [{**MODEL, "model_id": f"m{n}"} for n in range(257)], "served_models"),
    ("meta", "x", "meta"),
    ("meta", {"x": "MARKER" * 4000}, "meta"),
    ("access_token", 1, "access_token"),
    ("access_token", "MARKER\r\nX: y", "access_token"),
]


@pytest.mark.parametrize(("field", "value", "param"), WRONG)
def test_a_wrong_value_is_named(
    gateway: GatewayProcess, field: str, value: Any, param: str
) -> None:
    reply = register(gateway, **{"node_id": "wrong", field: value})
    told = reply.json()["error"].get("param") or ""
    assert told.split("[")[0].split(".")[0] == param.split("[")[0], reply
    expect.error(reply, 400, "invalid_value", param=told, echo="MARKER")
    assert told == param or told.startswith((f"{param}[", f"{param}."))
    assert "wrong" not in nodes(gateway)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"node_id":"a","node_id":"b"}', b"\xff"])
def test_what_is_no_registration(gateway: GatewayProcess, body: bytes) -> None:
    for path in ("/v1/nodes/register", "/v1/nodes/heartbeat"):
        reply = gateway.post(path, body, [("Authorization", "Bearer any-node")])
        assert reply.status == 400
        assert reply.json()["error"]["code"] in ("invalid_json", "invalid_value")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8014",
        "http://127.0.0.1:8014/",
        "https://node.example",
        "http://[::1]:8014/base/v1/",
        "HTTP://Node.Example:80",
        "http://my_box:8000",
    ],
)
def test_a_proper_url_is_taken(gateway: GatewayProcess, url: str) -> None:
    assert register(gateway, node_id="proper", base_url=url).status == 200
    goodbye(gateway, "proper")


def test_a_heartbeat_is_checked_in_the_same_way(gateway: GatewayProcess) -> None:
    register(gateway)
    bad = [{**MODEL, "roles": "writer"}]
    reply = heartbeat(gateway, node_id="gpu-box-1", served_models=bad)
    expect.error(reply, 400, "invalid_value", param="served_models[0].roles")
    wrong: list[Any] = [[], {"devices": {}}, {"devices": [1]}, {"host": {"load1": "x"}}]
    for metrics in wrong:
        reply = heartbeat(gateway, node_id="gpu-box-1", metrics=metrics)
        assert reply.status == 400
        assert reply.json()["error"]["param"].startswith("metrics")
    many = [{**MODEL, "model_id": f"m{n}"} for n in range(257)]
    assert heartbeat(gateway, node_id="gpu-box-1", served_models=many).status == 400


# Keys with limits


def refused(reply: Reply) -> None:
    assert reply.status == 403, reply
    assert reply.get("X-RoleMesh-Error") == "gateway"


def test_a_key_bound_to_node_ids(gateway: GatewayProcess) -> None:
    assert register(gateway, "boxes-key", node_id="box-1").status == 200
    refused(register(gateway, "boxes-key", node_id="box-3"))
    register(gateway, node_id="box-3")
    refused(heartbeat(gateway, "boxes-key", node_id="box-3"))
    refused(goodbye(gateway, "box-3", "boxes-key"))
    assert "box-3" in nodes(gateway)
    assert heartbeat(gateway, "boxes-key", node_id="box-1").status == 200
    assert goodbye(gateway, "box-1", "boxes-key").status == 200


def test_a_key_bound_to_roles(gateway: GatewayProcess) -> None:
    critic = [{"model_id": "m", "roles": ["critic"]}]
    more = [{"model_id": "m", "roles": ["critic", "writer"]}]
    assert register(gateway, "critics-key", node_id="c", served_models=critic).status == 200
    refused(register(gateway, "critics-key", node_id="c", served_models=more))
    refused(register(gateway, "critics-key", node_id="c", served_models=..., roles=["writer"]))
    refused(heartbeat(gateway, "critics-key", node_id="c", served_models=more))
    assert nodes(gateway)["c"]["served_models"][0]["roles"] == ["critic"]
    register(gateway, node_id="foreign", served_models=more)
    refused(heartbeat(gateway, "critics-key", node_id="foreign"))


def test_a_key_bound_to_networks(gateway: GatewayProcess, backend: FakeBackend) -> None:
    assert register(gateway, "here-key", node_id="h", base_url=backend.url).status == 200
    refused(register(gateway, "here-key", node_id="h", base_url="http://192.0.2.7:80"))
    refused(register(gateway, "here-key", node_id="h", base_url="http://[2001:db8::1]:80"))
    refused(register(gateway, "far-key", node_id="f", base_url=backend.url))
    refused(register(gateway, "far-key", node_id="f", base_url="http://[::ffff:127.0.0.1]:80"))


@pytest.mark.parametrize("host", ["localhost", "0x7f.1", "2130706433", "127.1"])
def test_networks_are_judged_on_the_address_that_is_connected_to(
    gateway: GatewayProcess, backend: FakeBackend, host: str
) -> None:
    """A name says nothing about where it leads; other spellings of an address do not either."""
    backend.otherwise(Die())
    url = f"http://{host}:{backend.port}"
    models = [{"model_id": "m", "roles": ["far"]}]
    reply = register(gateway, "far-key", node_id="sly", base_url=url, served_models=models)
    if reply.status == 200:
        told = expect.error(gateway.chat("far"), 503, "no_available_backend")
        reasons = {entry["reason"] for entry in told["details"]}
        assert reasons <= {"address_not_allowed", "name_not_resolved"}, reasons
        goodbye(gateway, "sly")
    else:
        assert reply.status in (400, 403)
    assert not backend.received
    assert not backend.probes


def test_a_thousand_nodes_are_the_most(tmp_path_factory: pytest.TempPathFactory) -> None:
    with GatewayProcess({}, tmp_path_factory.mktemp("many")) as gateway:
        statuses = set()
        with gateway.connect() as wire:
            for number in range(1000):
                node = b'{"node_id":"n%d","base_url":"http://127.0.0.1:9","roles":["r"]}' % number
                wire.request("POST", "/v1/nodes/register", body=node)
                statuses.add(wire.reply().status)
        assert statuses == {200}
        one_more = gateway.post("/v1/nodes/register", {**NODE, "node_id": "one-more"})
        assert 400 <= one_more.status < 500
        assert gateway.post("/v1/nodes/register", {**NODE, "node_id": "n7"}).status == 200
        assert len(nodes(gateway)) == 1000
