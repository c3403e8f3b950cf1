"""`rolemesh gateway`: options, --check, and errors before anything is opened."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "version: 1\n"
        "gateway: {port: 8123}\n"
        "auth: {client_api_keys: [a-secret-key]}\n"
        "models: {writer: {type: proxy, proxy_url: 'http://127.0.0.1:8012'}}\n"
    )
    return path


def test_check_prints_the_merged_result_with_origins_and_without_secrets(run, config: Path):
    done = run("gateway", "--config", config, "--check", "--port", "0")
    assert done.code == 0
    assert "a-secret-key" not in done.out
    assert f"# {config}:4" in done.out
    assert "port: 0  # --port" in done.out


def test_overrides_come_in_order(run, config: Path, tmp_path: Path):
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(f"gateway: {{port: 900{number}}}\n")
    overrides = [f"--config-override={tmp_path}/{number}.yaml" for number in (1, 2)]
    assert "port: 9002" in run("gateway", "--config", config, *overrides, "--check").out


def test_a_bad_configuration_exits_2_and_lists_every_problem(run, tmp_path: Path):
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 2\nmodels: {a: {type: proxy, proxy_url: nonsense}}\n")
    done = run("gateway", "--config", path)
    assert done.code == 2
    assert "version" in done.err
    assert "models.a.proxy_url" in done.err


def test_no_configuration_exits_2_naming_the_places(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = run("gateway")
    assert done.code == 2
    for place in ("etc/gateway.yaml", "configs/models.yaml", "/etc/rolemesh/gateway.yaml"):
        assert place in done.err


def test_a_port_in_use_is_one_line_and_exit_code_1(config: Path, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _gateway(config, tmp_path, "--port", str(port)).communicate(timeout=20)
    assert f"rolemesh: cannot listen on 127.0.0.1:{port}: the port is in use" in done[1]
    assert "Traceback" not in done[1]


def test_sigterm_is_a_graceful_end_with_exit_code_0(config: Path, tmp_path: Path):
    child = _gateway(config, tmp_path, "--port", "0", "--log-format", "json")
    assert child.stderr is not None
    for line in child.stderr:
        if '"listening"' in line:
            break
    child.send_signal(signal.SIGTERM)
    _, rest = child.communicate(timeout=20)
    assert child.returncode == 0
    assert "Traceback" not in rest


def _gateway(config: Path, folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rolemesh", "gateway", "--config", str(config), *args],
        env={"STATE_DIRECTORY": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
