"""What the demo runs: its own ports, keys and state, and nobody else's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from rolemesh.cli.demo_setup import environment, prepare
from rolemesh.config.load import find_gateway, find_node, load_gateway, load_node


def test_every_port_and_key_is_its_own(tmp_path: Path) -> None:
    setup = prepare(tmp_path)
    keys = {setup.key, setup.node_key, setup.admin_key}
    assert (len(keys), setup.gateway_port == setup.node_port) == (3, False)
    argvs = " ".join([*setup.gateway(), *setup.node()])
    for key in keys:
        assert key not in repr(setup)
        assert key not in argvs


def test_what_is_set_for_other_daemons_does_not_reach_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ROLE_MESH_CONFIG_OVERRIDE", "LLAMA_ARG_PORT", "NOTIFY_SOCKET", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("KEPT", "ours")
    found = environment()
    assert found["KEPT"] == "ours"
    assert "theirs" not in found.values()


def test_the_configurations_are_good_and_keep_to_loopback_and_the_folder(tmp_path: Path) -> None:
    setup = prepare(tmp_path)
    gateway = load_gateway(find_gateway(setup.gateway()[-1], (), {}), {}).config
    node = load_node(find_node(setup.node()[-1], (), {}), {}).config
    assert set(gateway.models) == {role for model in node.models for role in model.roles}
    assert str(node.gateways[0].url) == setup.url
    for section in (gateway.gateway, node.node):
        assert section.host == "127.0.0.1"
        assert Path(section.state_path or "/").parent == tmp_path
