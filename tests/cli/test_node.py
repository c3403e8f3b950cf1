"""`rolemesh node`: options, and what --check finds in the files and on the machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# All that --check may miss where an example is tried: the host's GPUs, its program, its models.
OF_THE_HOST = re.compile(r"\S+:\d+: (gpus|llama_server\.path|models\[\d\]\.(path|device)): ")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node whose program and model are just good enough to be looked at."""
    program, model = tmp_path / "llama-server", tmp_path / "model.gguf"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    model.write_bytes(b"GGUF\x03" + bytes(59))
    path = tmp_path / "node.yaml"
    path.write_text(
        "version: 1\n"
        "node: {port: 8123, api_keys: [a-secret-key]}\n"
        "llama_server: {path: ./llama-server, env: {HF_TOKEN: a-secret-token}}\n"
        "gpus: none\n"
        "gateways: [{url: 'http://127.0.0.1:8000', node_key: a-secret-node-key}]\n"
        "models:\n"
        "  - {model_id: a, path: model.gguf, roles: [planner]}\n"
    )
    return path


def test_check_prints_the_merged_result_with_origins_and_without_secrets(run, config: Path):
    done = run("node", "--config", config, "--check", "--port", "0", "--log-level", "debug")
    assert (done.code, done.err) == (0, "")
    assert "a-secret" not in done.out
    assert f"path: {config.parent}/model.gguf  # {config}:7" in done.out
    assert "port: 0  # --port" in done.out
    assert "level: debug  # --log-level" in done.out


def test_overrides_come_in_order(run, config: Path, tmp_path: Path):
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(f"node: {{port: 900{number}}}\n")
    overrides = [f"--config-override={tmp_path}/{number}.yaml" for number in (1, 2)]
    assert "port: 9002" in run("node", "--config", config, *overrides, "--check").out


def test_the_nodes_own_variables_name_its_files(
    run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    over = tmp_path / "over.yaml"
    over.write_text("node: {port: 9003}\n")
    monkeypatch.setenv("ROLE_MESH_CONFIG", "/nowhere")
    monkeypatch.setenv("ROLE_MESH_NODE_CONFIG", str(config))
    monkeypatch.setenv("ROLE_MESH_NODE_CONFIG_OVERRIDE", str(over))
    assert f"port: 9003  # {over}:1" in run("node", "--check").out


def test_no_configuration_exits_2_naming_the_places(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = run("node")
    assert done.code == 2
    for words in ("etc/node.yaml", "/etc/rolemesh/node.yaml", "`rolemesh init node`"):
        assert words in done.err


def test_an_empty_file_is_no_configuration(run, tmp_path: Path):
    (tmp_path / "node.yaml").write_text("")
    done = run("node", "--config", tmp_path / "node.yaml")
    assert done.code == 2
    assert "`rolemesh init node` writes a first configuration" in done.err


def test_a_bad_configuration_exits_2_and_lists_every_problem(run, tmp_path: Path):
    path = tmp_path / "node.yaml"
    path.write_text("version: 2\nmodels: [{model_id: a, path: a, roles: [], args: [--port]}]\n")
    done = run("node", "--config", path)
    assert done.code == 2
    assert f"{path}:1: version: " in done.err
    assert f"{path}:2: models[0].args[0]: --port is not for args" in done.err


def test_check_lists_all_that_the_machine_lacks(run, config: Path, tmp_path: Path):
    (tmp_path / "over.yaml").write_text(
        "llama_server: {path: ./no-server}\n"
        "gpus: [GPU-none]\n"
        "cpu: true\n"
        "models:\n"
        "  - {model_id: a, path: model.gguf, roles: [r]}\n"
        "  - {model_id: b, path: no.gguf, roles: [r]}\n"
        "  - {model_id: c, path: node.yaml, roles: [r], device: GPU-none}\n"
    )
    done = run("node", "--config", config, f"--config-override={tmp_path}/over.yaml", "--check")
    assert (done.code, done.out) == (2, "")
    lines = done.err.replace(f"{tmp_path}/", "").removeprefix("rolemesh: ")
    told = [line.split(": ")[:2] for line in lines.splitlines() if "could not be read" not in line]
    assert told == [
        ["over.yaml:1", "llama_server.path"],
        ["over.yaml:2", "gpus"],
        ["over.yaml:6", "models[1].path"],
        ["over.yaml:7", "models[2].path"],
        ["over.yaml:7", "models[2].device"],
    ]


def test_check_opens_no_socket(config: Path):
    program = (
        "import sys\n"
        "def audit(event, args):\n"
        "    if event.startswith('socket.'): raise SystemExit(f'{event}: {args}')\n"
        "import rolemesh.cli\n"
        "sys.addaudithook(audit)\n"
        "rolemesh.cli.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, "node", "--config", str(config), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "etc/node.example.yaml",
        ROOT / "etc/node.local.example.yaml",
        *sorted((ROOT / "etc/example-multi-node").glob("node-*.yaml")),
    ],
    ids=lambda path: path.name,
)
def test_an_example_lacks_nothing_but_what_is_the_hosts(run, path: Path):
    done = run("node", "--config", path, "--check")
    problems = done.err.removeprefix("rolemesh: ").splitlines()
    assert [line for line in problems if not OF_THE_HOST.match(line)] == []
    assert done.code == (2 if problems else 0)


def test_the_examples_gateway_passes_the_check(run):
    path = ROOT / "etc/example-multi-node/gateway.yaml"
    assert run("gateway", "--config", path, "--check").code == 0
