"""`rolemesh init`: a configuration that is good as it is, and nothing overwritten."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from rolemesh.config.load import find_node, load_node
from rolemesh.config.schema_node import NodeFile


def loaded(folder: Path) -> NodeFile:
    return load_node(find_node(f"{folder}/node.yaml", (), {}), {}).config


def test_what_it_writes_passes_the_check(run, tmp_path: Path):
    folder = tmp_path / "etc"
    done = run("init", "gateway", "--dir", folder)
    assert done.code == 0
    assert f"rolemesh gateway --config {folder}/gateway.yaml" in done.out
    assert run("gateway", "--config", folder / "gateway.yaml", "--check").code == 0


def test_the_search_finds_it_where_it_is_written_by_default(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run("init", "gateway").code == 0
    assert run("gateway", "--check").code == 0


@pytest.mark.parametrize("daemon", ["gateway", "node"])
def test_files_and_folders_are_readable_by_the_owner_alone(run, tmp_path: Path, daemon: str):
    folder = tmp_path / "etc"
    run("init", daemon, "--dir", folder)
    assert list(folder.rglob("*.key"))
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_keys_are_fresh_and_different_and_not_printed(run, tmp_path: Path):
    keys: set[str] = set()
    for name in ("one", "two"):
        done = run("init", "gateway", "--dir", tmp_path / name)
        found = [path.read_text().strip() for path in (tmp_path / name / "keys").iterdir()]
        assert not any(key in done.out for key in found)
        keys.update(found)
    assert len(keys) == 6
    assert all(len(key) > 40 for key in keys)


@pytest.mark.parametrize("there", ["gateway.yaml", "keys/node.key"])
def test_a_file_that_is_there_is_not_touched_and_nothing_else_written(
    run, tmp_path: Path, there: str
):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    done = run("init", "gateway", "--dir", tmp_path)
    assert done.code == 1
    assert str(path) in done.err
    assert path.read_text() == "mine"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_folder_that_cannot_be_made_is_a_clear_error(run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = run("init", "gateway", "--dir", tmp_path / "file" / "etc")
    assert done.code in (1, 2)
    assert "Traceback" not in done.err


def test_a_nodes_configuration_has_a_fresh_key_and_waits_for_models(run, tmp_path: Path):
    folder = tmp_path / "etc"
    done = run("init", "node", "--dir", folder)
    assert done.code == 0
    assert f"rolemesh node --config {folder}/node.yaml --check" in done.out
    assert f"copy the gateway's\n                     keys/node.key to {folder}/keys" in done.out
    config = loaded(folder)
    (key,) = config.node.api_keys
    assert key.source.key is not None
    assert key.source.key.startswith("rm-operator-")
    assert key.source.key not in done.out
    assert (config.gateways, config.models) == ((), ())


def test_a_nodes_configuration_is_found_where_it_is_written_by_default(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run("init", "node").code == 0
    problems = run("node", "--check").err.splitlines()
    assert [line for line in problems if "llama_server.path" not in line] == []


def test_what_a_nodes_configuration_shows_in_comments_is_good(run, tmp_path: Path):
    """Whoever takes the comment signs away has a configuration that loads."""
    run("init", "node", "--dir", tmp_path)
    (tmp_path / "keys/node.key").write_text("the-key")
    path = tmp_path / "node.yaml"
    path.write_text(re.sub(r"^  # (?=- |  |node_id|advertise)", "  ", path.read_text(), flags=re.M))
    config = loaded(tmp_path)
    assert config.node.node_id == "gpu-box-1"
    assert config.gateways[0].node_key == "the-key"
    assert (config.models[0].roles, config.models[0].parallel) == (("planner", "reviewer"), 2)


def test_a_node_beside_a_gateway_is_that_gateways(run, tmp_path: Path):
    run("init", "gateway", "--dir", tmp_path)
    done = run("init", "node", "--dir", tmp_path)
    assert done.code == 0
    assert "the gateway is the one of this folder" in done.out
    (gateway,) = loaded(tmp_path).gateways
    assert str(gateway.url) == "http://127.0.0.1:8000"
    assert gateway.node_key == (tmp_path / "keys/node.key").read_text().strip()


@pytest.mark.parametrize("there", ["node.yaml", "keys/operator.key"])
def test_a_nodes_file_that_is_there_is_not_touched(run, tmp_path: Path, there: str):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    done = run("init", "node", "--dir", tmp_path)
    assert done.code == 1
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["mine"]
