"""/v1/models and /ready tell the truth: what is reachable now, and why the rest is not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config
from tests.dead_ports import RefusedPort
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.script import Answer, Die, Head, Send, Stall, Step

REACHABLE: dict[str, list[Step]] = {
    "ok": [Answer.json({"object": "list", "data": []})],
    "not-found": [Answer.error(404)],
    "not-allowed": [Answer.error(405)],
    "no-json": [Answer.data(b"Ollama is running", content_type="text/plain")],
}
OUT: dict[str, list[Step]] = {
    "wants-a-key": [Answer.error(401)],
    "forbids": [Answer.error(403)],
    "breaks": [Answer.error(500)],
    "loads": [Answer.error(503)],
    "hangs": [Stall()],
    "hangs-too": [Head(), Stall()],
    "dies": [Die()],
    "babbles": [Send(b"nonsense\r\n\r\n"), Die()],
    "redirects": [Answer.data(b"", 302, headers=[("Location", "/elsewhere")])],
}
REASONS = {
    "wants-a-key": "unauthorized",
    "forbids": "forbidden",
    "breaks": "upstream_status",
    "loads": "upstream_status",
    "hangs": "probe_timeout",
    "dies": "connection_lost",
    "babbles": "bad_answer",
    "refuses": "connection_refused",
    "nobody": "no_node",
}


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, FakeBackend]]:
    with contextlib.ExitStack() as stack:
        made = {name: stack.enter_context(FakeBackend()) for name in (*REACHABLE, *OUT)}
        for name, steps in (REACHABLE | OUT).items():
            made[name].probe(*steps)
        yield made


@pytest.fixture(scope="module")
def config(backends: dict[str, FakeBackend]) -> Iterator[Config]:
    refused = RefusedPort()
    models: dict[str, Any] = {
        name: {"type": "proxy", "proxy_url": backend.url, "auth_token": f"token-of-{name}"}
        for name, backend in backends.items()
    }
    models["refuses"] = {"type": "proxy", "proxy_url": refused.url}
    models["nobody"] = {"type": "discovered", "openai_model_name": "some/body"}
    models["slashes"] = {
        "type": "proxy",
        "openai_model_name": "vendor/family/model-8b",
        "backends": [
            {"name": "a", "base_url": refused.url},
            {"name": "b", "base_url": backends["ok"].url},
            {"name": "c", "base_url": backends["not-found"].url},
        ],
    }
    yield {"default_model": "ok", "models": models}
    refused.close()


@pytest.fixture(scope="module")
def listed(gateway: GatewayProcess) -> dict[str, Any]:
    told: dict[str, Any] = gateway.get("/v1/models").json()
    return told


def test_every_probe_at_once_takes_two_seconds_at_most(gateway: GatewayProcess) -> None:
    began = time.monotonic()
    gateway.get("/v1/models")
    assert time.monotonic() - began < 2.8


def test_what_is_reachable_is_listed(listed: dict[str, Any]) -> None:
    assert listed["object"] == "list"
    assert {entry["id"] for entry in listed["data"]} == {*REACHABLE, "vendor/family/model-8b"}
    for entry in listed["data"]:
        assert entry["object"] == "model"
        assert entry["owned_by"] == "rolemesh"
        assert abs(entry["created"] - time.time()) < 10 * 365 * 86400
        assert set(entry["rolemesh"]) >= {"alias", "type", "backends"}
    assert listed["rolemesh"]["default_model"] == "ok"
    assert listed["rolemesh"]["nodes"] == []


def test_how_many_backends_are_reachable_is_told(listed: dict[str, Any]) -> None:
    (entry,) = (entry for entry in listed["data"] if "/" in entry["id"])
    assert entry["rolemesh"] == {"alias": "slashes", "type": "proxy", "backends": 2}


def test_the_rest_is_listed_with_its_reason(listed: dict[str, Any]) -> None:
    out = {entry["alias"]: entry for entry in listed["rolemesh"]["unavailable_models"]}
    assert set(out) == {*OUT, "refuses", "nobody"}
    told = {alias: out[alias]["reason"] for alias in REASONS}
    assert told == REASONS
    assert out["nobody"]["id"] == "some/body"
    assert out["nobody"]["type"] == "discovered"
    for entry in out.values():
        assert set(entry) >= {"id", "alias", "type", "reason", "detail", "since"}
        assert abs(entry["since"] - time.time()) < 60


def test_a_probe_has_the_backends_credential_and_asks_for_no_inference(
    gateway: GatewayProcess, backends: dict[str, FakeBackend], listed: dict[str, Any]
) -> None:
    for name, backend in backends.items():
        assert not backend.received
        probe = backend.probes[0]
        assert (probe.method, probe.target) == ("GET", "/v1/models")
        if name != "ok":
            assert probe.get("Authorization") == f"Bearer token-of-{name}"


def test_nothing_of_a_backend_is_told_that_is_secret(
    gateway: GatewayProcess, listed: dict[str, Any]
) -> None:
    assert "token-of" not in str(listed)
    nodes = gateway.get("/v1/nodes").body.decode()
    assert "token-of" not in nodes
    assert "token-of" not in gateway.text


def test_a_probes_answer_is_used_again_for_a_moment_only(
    gateway: GatewayProcess, backends: dict[str, FakeBackend]
) -> None:
    time.sleep(2.2)
    before = len(backends["breaks"].probes)
    for _ in range(5):
        gateway.get("/v1/models")
    assert len(backends["breaks"].probes) - before <= 3
    time.sleep(2.2)
    backends["breaks"].probe(Answer.error(404))
    assert "breaks" in {entry["id"] for entry in gateway.get("/v1/models").json()["data"]}
    backends["breaks"].probe(Answer.error(500))


@pytest.mark.parametrize("model", ["ok", "vendor/family/model-8b", "vendor%2Ffamily%2Fmodel-8b"])
def test_one_model_is_shown(gateway: GatewayProcess, model: str) -> None:
    reply = gateway.get(f"/v1/models/{model}")
    assert reply.status == 200
    assert reply.json()["id"] == model.replace("%2F", "/")
    assert reply.json()["object"] == "model"


@pytest.mark.parametrize("model", ["hangs", "some/body", "never-heard-of", "ok/", "ok/ok"])
def test_one_that_is_not_there_is_not_found(gateway: GatewayProcess, model: str) -> None:
    reply = gateway.get(f"/v1/models/{model}")
    assert reply.status == 404
    assert reply.json()["error"]["code"] in ("model_not_found", "not_found")


def test_an_operator_sees_every_backend(gateway: GatewayProcess) -> None:
    gateway.get("/v1/models")
    text = gateway.get("/v1/nodes").body.decode()
    for name in (*REACHABLE, *OUT, "refuses"):
        assert f'"{name}"' in text
    assert "connection_refused" in text


# /ready


def test_ready_is_about_the_default_model(
    backends: dict[str, FakeBackend], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = {
        "default_model": "planner",
        "models": {
            "planner": {"type": "discovered"},
            "other": {"type": "proxy", "proxy_url": backends["ok"].url},
        },
    }
    with GatewayProcess(config, tmp_path_factory.mktemp("ready")) as gateway:
        reply = gateway.get("/ready")
        assert reply.status == 503
        assert "no_node" in reply.body.decode()
        assert gateway.metric("model_available", alias="planner") == 0
        node = {"node_id": "n", "base_url": backends["ok"].url, "roles": ["planner"]}
        gateway.post("/v1/nodes/register", node)
        reply = gateway.get("/ready")
        assert reply.status == 200
        assert reply.json()
        gateway.post("/v1/nodes/n/drain", b"")
        assert gateway.get("/ready").status == 503
        assert gateway.get("/health").status == 200


def test_ready_without_a_default_is_about_any(
    backends: dict[str, FakeBackend], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = {"type": "proxy", "proxy_url": backends["breaks"].url}
    fine = {"type": "proxy", "proxy_url": backends["ok"].url}
    gateway = GatewayProcess({"models": {"a": out}}, tmp_path_factory.mktemp("any"))
    with gateway:
        reply = gateway.get("/ready")
        assert reply.status == 503
        text = reply.body.decode()
        assert "upstream_status" in text
        assert str(backends["breaks"].port) not in text, "a detail is no affair of anyone's"
    gateway.configure({"models": {"a": out, "b": fine}})
    with gateway:
        assert gateway.get("/ready").status == 200
    gateway.configure({})
    with gateway:
        assert gateway.get("/ready").status == 503


def test_a_node_is_no_longer_listed_once_it_is_dead(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        GatewayProcess(
            {"models": {"r": {"type": "discovered"}}}, tmp_path_factory.mktemp("dead")
        ) as gateway,
        FakeBackend() as box,
    ):
        node = {"node_id": "n", "base_url": box.url, "roles": ["r"]}
        gateway.post("/v1/nodes/register", node)
        assert [entry["id"] for entry in gateway.get("/v1/models").json()["data"]] == ["r"]
        box.stop()
        time.sleep(2.2)
        listed = gateway.get("/v1/models").json()
        assert listed["data"] == []
        assert listed["rolemesh"]["unavailable_models"][0]["reason"] == "connection_refused"
        expect.error(gateway.chat("r"), 503, "no_available_backend")
