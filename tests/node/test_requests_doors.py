"""Who may ask a node for what: gateways, operators, and others on the same machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway_process import chat_body
from tests.node.scripted import obedient_node
from tests.node_process import NodeProcess
from tests.rawhttp import Reply, request_bytes

CHAT = "/v1/chat/completions"
OPERATOR = "sk-of-the-operator"
FOR_CALLERS = [("GET", "/v1/models"), ("GET", "/v1/models/a"), ("POST", CHAT)]
FOR_OPERATORS = [
    ("GET", "/v1/node"),
    ("GET", "/v1/node/models/a/log"),
    ("POST", "/v1/node/models/a/load"),
    ("POST", "/v1/node/models/a/unload"),
    ("POST", "/v1/node/resume"),
    ("POST", "/v1/node/drain"),  # last: it ends what callers may
]
FOR_ANYONE = [("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics")]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """It has an operator's key."""
    section = {"api_keys": [{"name": "ops", "key": OPERATOR}], "max_body_bytes": 1000}
    with obedient_node(tmp_path_factory.mktemp("locked"), "a", node=section) as (node, _):
        yield node


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with obedient_node(tmp_path_factory.mktemp("open"), "a") as (node, _):
        yield node


def token(node: NodeProcess) -> str:
    """What gateways are given."""
    text = node.state_path.read_text()
    found: str = json.loads(text)["data"]["access_token"]
    return found


def bearer(key: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key}")]


def ask(node: NodeProcess, method: str, target: str, *headers: tuple[str, str]) -> Reply:
    body = chat_body("a") if target == CHAT else b"{}" if method == "POST" else None
    return node.call(method, target, headers, body)


def refused(reply: Reply) -> None:
    assert reply.status == 401, reply
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert reply.get("WWW-Authenticate") == "Bearer"
    assert reply.get("X-RoleMesh-Error") == "node"


@pytest.mark.parametrize(("method", "target"), FOR_ANYONE)
def test_anyone(locked: NodeProcess, method: str, target: str) -> None:
    assert ask(locked, method, target).status == 200
    assert ask(locked, method, target, *bearer("wrong")).status == 200


@pytest.mark.parametrize(("method", "target"), FOR_CALLERS)
def test_a_gateway_with_its_token(locked: NodeProcess, method: str, target: str) -> None:
    assert ask(locked, method, target, *bearer(token(locked))).status == 200
    assert ask(locked, method, target, ("X-Api-Key", token(locked))).status == 200
    via = ("Via", "1.1 rolemesh-abc")
    assert ask(locked, method, target, *bearer(token(locked)), via).status == 200


@pytest.mark.parametrize(("method", "target"), [*FOR_CALLERS, *FOR_OPERATORS])
def test_an_operator_with_a_key(locked: NodeProcess, method: str, target: str) -> None:
    assert ask(locked, method, target, *bearer(OPERATOR)).status == 200
    if target == "/v1/node/drain":
        assert ask(locked, "POST", "/v1/node/resume", *bearer(OPERATOR)).status == 200


@pytest.mark.parametrize(("method", "target"), FOR_OPERATORS)
def test_a_gateway_is_no_operator(locked: NodeProcess, method: str, target: str) -> None:
    refused(ask(locked, method, target, *bearer(token(locked))))


@pytest.mark.parametrize(("method", "target"), [*FOR_CALLERS, *FOR_OPERATORS])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer("wrong"),
        bearer(""),
        [("Authorization", f"Basic {OPERATOR}")],
        [("Authorization", "Bearer wrong"), ("X-Api-Key", OPERATOR)],
        [("X-RoleMesh-Node-Key", OPERATOR)],
    ],
)
def test_a_missing_or_a_wrong_key(
    locked: NodeProcess, method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    """On this machine, too: where there is a key, it is asked for."""
    reply = ask(locked, method, target, *headers)
    refused(reply)
    assert "wrong" not in reply.json()["error"]["message"].replace("missing or wrong", "")


def test_a_key_is_judged_before_the_body(locked: NodeProcess) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n"
    for more in ("", "Expect: 100-continue\r\n", "Content-Encoding: gzip\r\n"):
        with locked.connect() as wire:
            wire.send(f"{head}{more}\r\n".encode())
            refused(wire.reply())
    refused(locked.post(CHAT, b"{"))
    assert locked.post(CHAT, {"pad": "x" * 1000}, bearer(OPERATOR)).status == 413


def test_the_token_stays_the_same_over_restarts(locked: NodeProcess) -> None:
    before = token(locked)
    assert len(before) >= 32
    assert locked.state_path.stat().st_mode & 0o777 == 0o600
    locked.stop()
    locked.start()
    assert token(locked) == before
    assert ask(locked, "POST", CHAT, *bearer(before)).status == 200


# Without keys: direct requests from this machine


@pytest.mark.parametrize(("method", "target"), [*FOR_CALLERS, *FOR_OPERATORS])
@pytest.mark.parametrize("headers", [[], bearer("clients have to send something")])
def test_whoever_is_on_this_machine(
    open_one: NodeProcess, method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    assert ask(open_one, method, target, *headers).status == 200
    if target == "/v1/node/drain":
        assert ask(open_one, "POST", "/v1/node/resume").status == 200


@pytest.mark.parametrize(("method", "target"), [FOR_CALLERS[0], FOR_CALLERS[2], FOR_OPERATORS[0]])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Forwarded", "for=127.0.0.1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 somebody"),
        ("Origin", "http://localhost"),
        ("Origin", "null"),
    ],
)
def test_what_came_through_something_is_not_direct(
    open_one: NodeProcess, method: str, target: str, name: str, value: str
) -> None:
    refused(ask(open_one, method, target, (name, value)))
    refused(ask(open_one, method, target, (name, value), *bearer("wrong")))
    with_token: Any = [(name, value), *bearer(token(open_one))]
    reply = ask(open_one, method, target, *with_token)
    assert reply.status == (401 if target == "/v1/node" else 200)


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1", "127.0.0.1.nip.io", "localhost.x"])
def test_a_page_that_rebinds_its_name_is_not_direct(open_one: NodeProcess, host: str) -> None:
    for method, target in [*FOR_CALLERS, FOR_OPERATORS[0]]:
        body = chat_body("a") if method == "POST" else None
        with open_one.connect() as wire:
            wire.send(request_bytes(method, target, body=body, host=host))
            refused(wire.reply())
