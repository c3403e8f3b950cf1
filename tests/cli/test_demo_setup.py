"""What the demo runs: its own ports, keys and state, and nobody else's settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rolemesh.cli.demo_setup import environment, prepare


def test_every_port_and_key_is_its_own(tmp_path: Path) -> None:
    setup = prepare(tmp_path)
    ports = [setup.gateway_port, *(server.port for server in setup.servers)]
    keys = [setup.key, setup.admin_key, *(server.key for server in setup.servers)]
    assert (len(set(ports)), len(set(keys))) == (3, 4)
    assert setup.key not in repr(setup)
    assert setup.admin_key not in repr(setup)


def test_what_is_set_for_another_gateway_does_not_reach_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ROLE_MESH_CONFIG_OVERRIDE", "LLAMA_ARG_PORT", "NOTIFY_SOCKET", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("KEPT", "ours")
    found = environment()
    assert found["KEPT"] == "ours"
    assert "theirs" not in found.values()


def test_keys_are_in_no_argv(tmp_path: Path) -> None:
    setup = prepare(tmp_path)
    for server in setup.servers:
        assert server.key not in " ".join([*server.serve(), *setup.gateway()])
        assert server.environment()["LLAMA_API_KEY"] == server.key


def test_the_gateways_configuration_has_both_aliases_and_state_in_the_folder(
    tmp_path: Path,
) -> None:
    setup = prepare(tmp_path)
    config = json.loads(Path(setup.gateway()[-1]).read_text())
    assert set(config["models"]) == {"planner", "writer"}
    assert Path(config["gateway"]["state_path"]).parent == tmp_path
    assert config["gateway"]["host"] == "127.0.0.1"
