"""What outlives a gateway: nodes, their tokens and drains, in a file that may come to harm."""

from __future__ import annotations

import json
import time

import pytest

from tests.blackbox.test_discovery import STALE_S, beat
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess


def test_nodes_tokens_and_drains_survive_a_restart(
    tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend
) -> None:
    config = {
        "models": {"critic": {"type": "discovered"}, "drained": {"type": "discovered"}},
    }
    gateway = GatewayProcess(config, tmp_path_factory.mktemp("restart"))
    with gateway:
        beat(gateway, "box", backend, "critic", access_token="secret-of-the-node")
        beat(gateway, "tired", backend, "drained")
        gateway.post("/v1/nodes/tired/drain", b"")
    assert gateway.state_path.stat().st_mode & 0o777 == 0o600
    with gateway:
        assert gateway.chat("critic").status == 200
        assert backend.next().get("Authorization") == "Bearer secret-of-the-node"
        assert gateway.chat("drained").status == 503
        assert "secret-of-the-node" not in gateway.get("/v1/nodes").body.decode()
        assert "secret-of-the-node" not in gateway.text


def test_a_kill_loses_at_most_a_second(
    tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend
) -> None:
    config = {"models": {"critic": {"type": "discovered"}}}
    gateway = GatewayProcess(config, tmp_path_factory.mktemp("kill"))
    gateway.start()
    beat(gateway, "box", backend, "critic")
    time.sleep(1.5)
    gateway.kill()
    with gateway:
        assert gateway.chat("critic").status == 200


def test_after_a_long_stop_a_node_is_stale_until_heard_of(
    tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend
) -> None:
    config = {
        "registry": {"stale_after_s": STALE_S},
        "models": {"critic": {"type": "discovered"}},
    }
    gateway = GatewayProcess(config, tmp_path_factory.mktemp("long"))
    with gateway:
        beat(gateway, "box", backend, "critic")
    time.sleep(STALE_S)
    with gateway:
        assert gateway.chat("critic").status == 503
        assert gateway.get("/v1/nodes").json()["nodes"][0]["state"] == "stale"
        assert gateway.post("/v1/nodes/heartbeat", {"node_id": "box"}).status == 200
        assert gateway.chat("critic").status == 200


BROKEN = {
    "empty": b"",
    "no JSON": b"\x00\xff nonsense",
    "truncated": b'{"version": 1, "nodes": [{"node_id": "a"',
    "another thing": b'["a"]',
    "wrong inside": b'{"version": 1, "nodes": [1, null], "drained": 7}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_state_file_is_set_aside(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    gateway = GatewayProcess({}, tmp_path_factory.mktemp("broken"))
    gateway.state_path.write_bytes(content)
    with gateway:
        gateway.wait_line(lambda line: line["level"] == "warning")
        assert gateway.get("/v1/nodes").json()["nodes"] == []
        aside = [path for path in gateway.directory.iterdir() if "state" in path.name]
        assert any(path.read_bytes() == content for path in aside if path != gateway.state_path)


def test_a_truncated_file_of_its_own_is_set_aside_too(
    tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend
) -> None:
    gateway = GatewayProcess({}, tmp_path_factory.mktemp("truncated"))
    with gateway:
        beat(gateway, "box", backend, "critic")
    whole = gateway.state_path.read_bytes()
    json.loads(whole)
    for size in (1, len(whole) // 2, len(whole) - 1):
        gateway.state_path.write_bytes(whole[:size])
        with gateway:
            assert gateway.get("/health").status == 200


def test_a_state_that_cannot_be_written_is_a_warning(
    tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend
) -> None:
    directory = tmp_path_factory.mktemp("unwritable")
    config = {
        "gateway": {"state_path": "/proc/rolemesh/state.json"},
        "models": {"critic": {"type": "discovered"}},
    }
    with GatewayProcess(config, directory) as gateway:
        beat(gateway, "box", backend, "critic")
        gateway.wait_line(lambda line: line["level"] == "warning")
        assert gateway.chat("critic").status == 200


def test_a_second_gateway_on_the_same_state_is_refused(
    gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = {"gateway": {"state_path": str(gateway.state_path)}}
    second = GatewayProcess(config, tmp_path_factory.mktemp("second"))
    process = second.launch()
    _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"state" in told
    assert b"Traceback" not in told
    assert gateway.get("/health").status == 200
