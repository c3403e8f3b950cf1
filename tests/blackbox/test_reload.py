"""SIGHUP: only what changed is touched, a bad file changes nothing, and no request suffers."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.rawhttp import request_bytes
from tests.script import DONE, Chunk, Gate, Head, LastChunk, Pass, Stall, event

PATH = "/v1/chat/completions"


@pytest.fixture
def fresh(tmp_path: Path, backend: FakeBackend) -> Iterator[GatewayProcess]:
    with GatewayProcess(basic(backend), tmp_path) as gateway:
        yield gateway


def basic(backend: FakeBackend, **fields: Any) -> Config:
    return {
        "models": {"writer": {"type": "proxy", "proxy_url": backend.url}},
        **fields,
    }


def reloads(gateway: GatewayProcess) -> float:
    return gateway.metric("config_reloads_total")


def reload(gateway: GatewayProcess, config: Config | None = None) -> None:
    """Give it another configuration and wait until it has been judged."""
    before = reloads(gateway)
    if config is not None:
        gateway.configure(config)
    gateway.signal(signal.SIGHUP)
    eventually(lambda: reloads(gateway) > before)


def test_a_new_alias_is_there_and_an_old_one_gone(
    fresh: GatewayProcess, backend: FakeBackend
) -> None:
    models = {"critic": {"type": "proxy", "proxy_url": backend.url}}
    reload(fresh, {"models": models})
    assert fresh.chat("critic").status == 200
    expect.error(fresh.chat("writer"), 404, "model_not_found")
    assert fresh.metric("config_reloads_total", result="success") == 1


BAD = {
    "no YAML": "models: [",
    "a list": "[]",
    "an empty file": "",
    "an unknown key": '{"version": 1, "modles": {}}',
    "another version": '{"version": 2}',
    "a wrong value": '{"version": 1, "gateway": {"drain_timeout_s": "soon"}}',
    "no file": None,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_bad_file_changes_nothing(fresh: GatewayProcess, text: str | None) -> None:
    if text is None:
        fresh.config_path.unlink()
    else:
        fresh.write_config(text)
    reload(fresh)
    assert fresh.metric("config_reloads_total", result="failure") == 1
    assert fresh.metric("config_last_reload_success") == 0
    assert fresh.chat("writer").status == 200
    fresh.wait_line(lambda line: line["level"] in ("error", "warning"))


def test_the_last_reload_is_told_by_ready(fresh: GatewayProcess, backend: FakeBackend) -> None:
    reload(fresh, basic(backend))
    good = fresh.get("/ready").json()
    fresh.write_config("models: [")
    reload(fresh)
    bad = fresh.get("/ready").json()
    assert good != bad
    assert "models: [" not in json.dumps(bad)


def test_a_removed_key_ends_what_it_let_in(fresh: GatewayProcess, backend: FakeBackend) -> None:
    found = {"type": "discovered"}
    keys = {"client_api_keys": ["old", "new"], "node_api_keys": ["old-node", "new-node"]}
    config = {"models": {**basic(backend)["models"], "critic": found}, "auth": keys}
    reload(fresh, config)
    for name in ("old", "new"):
        node = {"node_id": name, "base_url": backend.url, "roles": ["critic"]}
        key = [("Authorization", f"Bearer {name}-node")]
        assert fresh.post("/v1/nodes/register", node, key).status == 200
    less = {"client_api_keys": ["new"], "node_api_keys": ["new-node"]}
    reload(fresh, {**config, "auth": less})
    expect.error(fresh.chat("writer", [("Authorization", "Bearer old")]), 401, "invalid_api_key")
    served = {
        fresh.chat("critic", [("Authorization", "Bearer new")]).get("X-RoleMesh-Node")
        for _ in range(4)
    }
    assert served == {"new"}
    reply = fresh.post(
        "/v1/nodes/heartbeat", {"node_id": "old"}, [("Authorization", "Bearer new-node")]
    )
    expect.error(reply, 404, "unknown_node")


def test_a_narrowed_node_key_ends_the_leases_beyond_it(
    fresh: GatewayProcess, backend: FakeBackend
) -> None:
    def config(**limits: Any) -> Config:
        keys = [{"key": "node-key", **limits}]
        return {"models": {"critic": {"type": "discovered"}}, "auth": {"node_api_keys": keys}}

    key = [("Authorization", "Bearer node-key")]
    node = {"node_id": "box", "base_url": backend.url, "roles": ["critic"]}
    reload(fresh, config())
    assert fresh.post("/v1/nodes/register", node, key).status == 200
    reload(fresh, config(roles=["critic"]))
    assert fresh.chat("critic").status == 200
    reload(fresh, config(roles=["writer"]))
    expect.error(fresh.chat("critic"), 503, "no_available_backend")
    assert fresh.post("/v1/nodes/register", node, key).status == 403


def test_a_running_stream_goes_on(fresh: GatewayProcess, backend: FakeBackend) -> None:
    gate = Gate()
    backend.script(Head(), Chunk(event("a")), Pass(gate), Chunk(event("b") + DONE), LastChunk())
    with fresh.connect() as wire:
        wire.request("POST", PATH, body=chat_body("writer", stream=True))
        pieces = wire.pieces(wire.head())
        got = wire.until(pieces, b"\n\n")
        reload(fresh, {"models": {}})
        expect.error(fresh.chat("writer"), 404, "model_not_found")
        gate.open()
        assert len(expect.whole_stream(got + b"".join(pieces))) == 2


def test_a_kept_connection_is_not_closed(fresh: GatewayProcess, backend: FakeBackend) -> None:
    with fresh.connect() as wire:
        for _ in range(3):
            wire.send(request_bytes("POST", PATH, body=chat_body("writer")))
            assert wire.reply().status == 200
            reload(fresh, basic(backend))


def test_what_needs_a_restart_is_a_warning(fresh: GatewayProcess, backend: FakeBackend) -> None:
    reload(fresh, basic(backend, gateway={"port": 1, "host": "127.0.0.2"}))
    fresh.wait_line(
        lambda line: line["level"] == "warning" and "port" in json.dumps(line), timeout_s=3
    )
    assert fresh.chat("writer").status == 200


def test_the_log_level_changes_at_once(fresh: GatewayProcess, backend: FakeBackend) -> None:
    reload(fresh, basic(backend, log={"level": "error", "format": "json"}))
    assert fresh.chat("writer").status == 200
    time.sleep(0.2)
    assert not [line for line in fresh.lines if line.get("path") == PATH]


def test_a_new_cap_and_new_timeouts_hold_at_once(
    fresh: GatewayProcess, backend: FakeBackend
) -> None:
    reload(fresh, basic(backend, gateway={"max_body_bytes": 200}, timeouts={"first_byte_s": 0.3}))
    expect.error(fresh.chat("writer", x="x" * 300), 413, "request_too_large")
    backend.script(Stall())
    expect.error(fresh.chat("writer"), 504, "upstream_timeout")


def test_a_hundred_reloads_under_load_fail_no_request(
    fresh: GatewayProcess, backend: FakeBackend
) -> None:
    over = threading.Event()
    failures: list[str] = []
    served = [0]

    def load(stream: bool) -> None:
        with fresh.connect() as wire:
            while not over.is_set():
                wire.request("POST", PATH, body=chat_body("writer", stream=stream))
                reply = wire.reply()
                served[0] += 1
                if reply.status != 200 or (stream and DONE not in reply.body):
                    failures.append(repr(reply))

    threads = [threading.Thread(target=load, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        if number % 3 == 2:
            fresh.write_config("models: [")
        else:
            defaults = {"temperature": number / 100}
            writer = {"type": "proxy", "proxy_url": backend.url, "defaults": defaults}
            fresh.configure({"models": {"writer": writer, f"extra-{number}": writer}})
        fresh.signal(signal.SIGHUP)
        time.sleep(0.03)
    over.set()
    for thread in threads:
        thread.join(10)
    assert not failures
    assert served[0] > 100
    assert fresh.metric("config_reloads_total", result="success") > 3
    assert fresh.metric("config_reloads_total", result="failure") > 3
    reload(fresh, basic(backend))
    assert fresh.chat("writer").status == 200
