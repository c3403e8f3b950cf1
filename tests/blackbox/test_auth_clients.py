"""Client keys: which headers, which order of judgement, and what a limited key may see."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config, Solo
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import request_bytes
from tests.script import Answer, completion

PATH = "/v1/chat/completions"
BEARER = [("Authorization", "Bearer alice-key")]
HASHED = hashlib.sha256(b"hashed-key").hexdigest()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, open_backend: FakeBackend) -> Config:
    key_file: Path = tmp_path_factory.mktemp("keys") / "carol.key"
    key_file.write_text("carol-key\n")
    return {
        "default_model": "open",
        "gateway": {"max_body_bytes": 1000},
        "auth": {
            "client_api_keys": [
                "plain-key",
                {"name": "alice", "key": "alice-key"},
                {"name": "carol", "key_file": str(key_file)},
                {"name": "hank", "key_hash": f"sha256:{HASHED}"},
                {"name": "limited", "key": "limited-key", "models": ["mine"]},
            ],
            "node_api_keys": ["node-key"],
            "admin_api_keys": ["admin-key"],
        },
        "models": {
            "open": {"type": "proxy", "proxy_url": open_backend.url},
            "mine": {
                "type": "proxy",
                "proxy_url": open_backend.url,
                "openai_model_name": "vendor/mine-8b",
            },
            "gone": {"type": "discovered", "role": "nobody"},
        },
    }


@pytest.fixture(scope="module")
def open_backend() -> Iterator[FakeBackend]:
    with FakeBackend() as backend:
        backend.otherwise(Answer.json(completion()))
        yield backend


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer plain-key")],
        [("Authorization", "bearer alice-key")],
        [("authorization", "Bearer carol-key")],
        [("X-Api-Key", "hashed-key")],
        [("x-api-key", "alice-key")],
        [("Authorization", "Bearer alice-key"), ("X-Api-Key", "wrong")],
        [("X-Api-Key", "wrong"), ("Authorization", "Bearer alice-key")],
    ],
)
def test_a_right_key_is_let_in(gateway: GatewayProcess, headers: list[tuple[str, str]]) -> None:
    assert gateway.chat("open", headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Bearer wrong")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer")],
        [("Authorization", "alice-key")],
        [("Authorization", "Basic YWxpY2Uta2V5Og==")],
        [("Authorization", "Bearer alice-key2")],
        [("Authorization", "Bearer Alice-Key")],
        [("Authorization", "Bearer wrong"), ("X-Api-Key", "alice-key")],
        [("X-Api-Key", "")],
        [("X-Api-Key", "wrong")],
        [("X-Api-Key", "Bearer alice-key")],
        [("Authorization", "Bearer node-key")],
        [("Authorization", f"Bearer sha256:{HASHED}")],
        [("Authorization", f"Bearer {HASHED}")],
        [("X-RoleMesh-Node-Key", "alice-key")],
        [("Authorization", "Bearer \xff\xfe\xe4")],
        [("X-Api-Key", "k\xc3\xa9y")],
        [("X-Api-Key", "a\tb")],
        [("Authorization", "Bearer " + "k" * 6000)],
        [("Cookie", "api_key=alice-key")],
    ],
)
def test_missing_and_wrong_keys_get_one_and_the_same_answer(
    gateway: GatewayProcess, headers: list[tuple[str, str]]
) -> None:
    reply = gateway.chat("open", headers)
    expect.error(reply, 401, "invalid_api_key")
    assert reply.body == gateway.chat("open").body


def test_a_key_in_the_query_string_is_none(gateway: GatewayProcess) -> None:
    expect.error(
        gateway.post(f"{PATH}?api_key=alice-key", chat_body("open")), 401, "invalid_api_key"
    )


BEFORE = {
    "413": [("Content-Length", "1000000")],
    "413 in chunks": [("Transfer-Encoding", "chunked")],
    "415": [("Content-Encoding", "gzip"), ("Content-Length", "10")],
    "the body": [("Content-Length", "500")],
    "100 Continue": [("Expect", "100-continue"), ("Content-Length", "500")],
}


@pytest.mark.parametrize("headers", BEFORE.values(), ids=BEFORE)
def test_the_key_is_judged_before(gateway: GatewayProcess, headers: list[tuple[str, str]]) -> None:
    with gateway.connect(timeout_s=3) as wire:
        wire.request("POST", PATH, [("Authorization", "Bearer wrong"), *headers])
        assert wire.head(interim=True).status == 401


@pytest.mark.parametrize("body", [b"{nonsense", b"", b'{"model": 1}', b'{"model": "unknown"}'])
def test_the_key_is_judged_before_what_the_body_says(gateway: GatewayProcess, body: bytes) -> None:
    expect.error(gateway.post(PATH, body), 401, "invalid_api_key")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    ],
)
def test_every_path_of_clients_asks_for_a_key(gateway: GatewayProcess, path: str) -> None:
    expect.error(gateway.post(path, chat_body("open")), 401, "invalid_api_key", path=path)
    assert gateway.post(path, chat_body("open"), BEARER).status == 200


def test_model_lists_ask_for_a_key(gateway: GatewayProcess) -> None:
    expect.error(gateway.get("/v1/models"), 401, "invalid_api_key")
    expect.error(gateway.get("/v1/models/open"), 401, "invalid_api_key")
    assert gateway.get("/v1/models", BEARER).status == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_anyone_may_ask_how_the_gateway_is(gateway: GatewayProcess, path: str) -> None:
    assert gateway.get(path, [("Authorization", "Bearer wrong")]).status == 200


@pytest.mark.parametrize("key", ["alice-key", "node-key", "limited-key"])
def test_other_keys_are_no_admin_keys(gateway: GatewayProcess, key: str) -> None:
    reply = gateway.get("/v1/nodes", [("Authorization", f"Bearer {key}")])
    expect.error(reply, 401, "invalid_api_key")


def test_admin_keys_come_as_client_keys_do(gateway: GatewayProcess) -> None:
    assert gateway.get("/v1/nodes", [("Authorization", "Bearer admin-key")]).status == 200
    assert gateway.get("/v1/nodes", [("X-Api-Key", "admin-key")]).status == 200


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Authorization", "Bearer node-key", 200),
        ("X-RoleMesh-Node-Key", "node-key", 200),
        ("X-Api-Key", "node-key", 401),
        ("Authorization", "Bearer alice-key", 401),
        ("X-RoleMesh-Node-Key", "admin-key", 401),
    ],
)
def test_node_keys_register(gateway: GatewayProcess, header: str, value: str, status: int) -> None:
    node = {"node_id": "n", "base_url": "http://127.0.0.1:9", "roles": ["r"]}
    assert gateway.post("/v1/nodes/register", node, [(header, value)]).status == status


# Limited keys

LIMITED = [("Authorization", "Bearer limited-key")]


def test_a_limited_key_uses_its_alias_by_either_name(gateway: GatewayProcess) -> None:
    assert gateway.chat("mine", LIMITED).status == 200
    assert gateway.chat("vendor/mine-8b", LIMITED).status == 200


def test_a_limited_key_gets_one_answer_for_any_other_model(gateway: GatewayProcess) -> None:
    replies = [gateway.chat(name, LIMITED) for name in ("open", "gone", "never-heard-of", "Mine")]
    for reply in replies:
        expect.error(reply, 403, "model_not_allowed")
    assert len({reply.body for reply in replies}) == 1


def test_a_limited_key_is_not_lent_the_default_model(gateway: GatewayProcess) -> None:
    expect.error(gateway.chat(None, LIMITED), 403, "model_not_allowed")


def test_an_unlimited_key_learns_that_a_model_is_unknown(gateway: GatewayProcess) -> None:
    reply = gateway.chat("never-heard-of", BEARER)
    expect.error(reply, 404, "model_not_found", echo="never-heard-of")


def test_model_lists_show_a_limited_key_its_own_models_only(gateway: GatewayProcess) -> None:
    listed = gateway.get("/v1/models", LIMITED).json()
    assert [entry["id"] for entry in listed["data"]] == ["vendor/mine-8b"]
    assert listed["rolemesh"].get("default_model") is None
    assert not listed["rolemesh"]["unavailable_models"]
    assert "nodes" not in listed["rolemesh"]
    everything = gateway.get("/v1/models", BEARER).json()
    assert {entry["id"] for entry in everything["data"]} >= {"open", "vendor/mine-8b"}
    assert everything["rolemesh"]["default_model"] == "open"
    assert "nodes" in everything["rolemesh"]
    assert "gone" in {entry["id"] for entry in everything["rolemesh"]["unavailable_models"]}


def test_one_model_is_shown_to_a_limited_key_by_the_same_rule(gateway: GatewayProcess) -> None:
    assert gateway.get("/v1/models/vendor/mine-8b", LIMITED).status == 200
    replies = [gateway.get(f"/v1/models/{name}", LIMITED) for name in ("open", "gone", "unknown")]
    assert len({(reply.status, reply.body) for reply in replies}) == 1
    assert replies[0].status in (403, 404)


def test_the_log_names_the_key_and_never_shows_it(gateway: GatewayProcess, solo: Solo) -> None:
    line = gateway.request_line(gateway.chat(solo.alias, BEARER))
    assert line["caller"] == "alice"
    gateway.chat(solo.alias, [("X-Api-Key", "hashed-key")])
    refused = gateway.request_line(gateway.chat(solo.alias, [("X-Api-Key", "not-a-key-of-ours")]))
    assert (refused["status"], refused["outcome"]) == (401, "rejected")
    for secret in ("alice-key", "hashed-key", "not-a-key-of-ours", HASHED):
        assert secret not in gateway.text


def test_two_authorization_headers_never_let_a_wrong_key_in(gateway: GatewayProcess) -> None:
    wrong = [("Authorization", "Bearer wrong"), ("Authorization", "Bearer wrong-too")]
    with gateway.connect() as wire:
        wire.send(request_bytes("POST", PATH, wrong, chat_body("open")))
        assert wire.reply().status in (400, 401)
