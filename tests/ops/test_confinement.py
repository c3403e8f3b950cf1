"""The units' hardening breaks nothing: all daemons do their work under the filters of their unit.

What systemd would do to them (system calls, address families, no writable and executable memory,
readiness told through a socket) is done by `confined.py`, so that it is tested without systemd.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.llama import Starter

HERE = Path(__file__).parent
UNITS = HERE.parents[1] / "contrib" / "systemd"
START_S = 20
CONFIG = """\
version: 1
gateway: {port: 0}
auth:
  client_api_keys: [{key_file: "${CREDENTIALS_DIRECTORY}/client.key"}]
  node_api_keys: [{key_file: "${CREDENTIALS_DIRECTORY}/node.key"}]
models:
  writer: {proxy_url: "http://localhost:9"}
  reviewer: {type: discovered}
"""
NODE_CONFIG = """\
version: 1
node: {node_id: box, port: 0, log_dir: "${STATE_DIRECTORY}/logs"}
llama_server: {path: builtin}
gpus: none
models:
  - {model_id: tiny, path: TINY, roles: [writer], ctx_size: 256}
"""
Start = Callable[..., "Daemon"]


class Daemon:
    """A program run as its unit says, and what it tells systemd."""

    def __init__(self, unit: str, arguments: list[str], folder: Path) -> None:
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.settimeout(START_S)
        address = f"{folder}/{unit}.socket"
        self.notified.bind(address)
        self.log = folder / f"{unit}.log"
        env = os.environ | {
            "NOTIFY_SOCKET": address,
            "STATE_DIRECTORY": str(folder / "state"),
            "CREDENTIALS_DIRECTORY": str(folder),
        }
        program = [sys.executable, "-m", "rolemesh", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "confined.py"), str(UNITS / unit), *program],
                env=env,
                stderr=log,
            )

    def told(self, word: str) -> str:
        """Wait until systemd has been told `word`; the message that says it."""
        while True:
            message = self.notified.recv(4096).decode()
            if word in message.splitlines():
                return message

    def logged(self, message: str) -> dict[str, object]:
        """Wait until a line with this message has been written (a thread writes them, later)."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for line in map(json.loads, self.log.read_text().splitlines()):
                if line["message"] == message:
                    return line
            time.sleep(0.01)
        raise TimeoutError(message)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    daemons: list[Daemon] = []

    def run(unit: str, *arguments: str) -> Daemon:
        daemons.append(Daemon(unit, list(arguments), tmp_path))
        return daemons[-1]

    yield run
    for daemon in daemons:
        daemon.notified.close()
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


def get(url: str, key: str) -> dict[str, object]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        return json.load(answer)


def test_gateway_and_registration_work_as_confined_as_their_units_say(
    start: Start, tmp_path: Path
) -> None:
    for name in ("client", "node"):
        (tmp_path / f"{name}.key").write_text(f"the-key-of-a-{name}\n")
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG)
    gateway = start("rolemesh-gateway.service", "gateway", "--config", str(config))
    gateway.told("READY=1")
    url = f"http://127.0.0.1:{gateway.logged('listening')['port']}"

    registration = start(
        "rolemesh-register@.service",
        *("register", "--keep-alive", "--node-key-file", f"{tmp_path}/node.key"),
        *("--gateway", url, "--node-id", "box", "--base-url", "http://localhost:9"),
        *("--model", "some-model=reviewer"),
    )
    registration.told("READY=1")
    models = get(f"{url}/v1/models", "the-key-of-a-client")["rolemesh"]
    assert [node["node_id"] for node in models["nodes"]] == ["box"]  # type: ignore[index]
    reasons = [model["reason"] for model in models["unavailable_models"]]  # type: ignore[index]
    assert reasons == ["connection_refused"] * 2  # resolved, connected to, and nobody there

    gateway.process.send_signal(signal.SIGHUP)
    gateway.told("RELOADING=1")
    gateway.told("READY=1")
    assert registration.stop() == 0
    assert gateway.stop() == 0
    assert json.loads((tmp_path / "state/gateway.json").read_text())


def test_a_node_and_its_child_work_as_confined_as_their_unit_says(
    start: Start, llama_folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(NODE_CONFIG.replace("TINY", str(Starter(llama_folder).model("tiny"))))
    node = start("rolemesh-node.service", "node", "--config", str(config))
    node.told("READY=1")
    url = f"http://127.0.0.1:{node.logged('listening')['port']}"

    body = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        assert json.load(answer)["usage"]["completion_tokens"]
    with urllib.request.urlopen(f"{url}/v1/node", timeout=START_S) as answer:
        (child,) = json.load(answer)["children"]
    assert (child["state"], child["restarts"]) == ("READY", 0)

    assert node.stop() == 0
    assert not Path(f"/proc/{child['pid']}").exists()
    assert list((tmp_path / "state/logs").iterdir())
