"""`rolemesh demo` as a user runs it: real servers, a real gateway, nothing left behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.llama import until

WAIT_S = 60
DEMO = [sys.executable, "-m", "rolemesh", "demo"]

pytestmark = pytest.mark.usefixtures("llama_folder")  # skips without the extra


class Demo:
    """A demo that keeps running, with a folder for temporary files to itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder.parent / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                DEMO, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)}
            )

    def text(self) -> str:
        return self.output.read_text()

    def says(self, text: str) -> None:
        until(
            lambda: text in self.text() or self.process.poll() is not None,
            f"the demo says {text!r}",
            within_s=WAIT_S,
        )
        assert text in self.text(), self.text()

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Demo]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    demo = Demo(folder)
    yield demo
    if demo.process.poll() is None:
        demo.process.terminate()
        demo.process.wait(WAIT_S)


def nothing_left(folder: Path, pids: list[int]) -> bool:
    return not any(folder.iterdir()) and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_once_prints_an_answer_of_each_and_leaves_nothing_behind(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path), "ROLE_MESH_CONFIG_OVERRIDE": "/nowhere.yaml"}
    ended = subprocess.run(
        [*DEMO, "--once"], capture_output=True, text=True, timeout=WAIT_S, check=False, env=env
    )
    assert ended.returncode == 0, ended.stderr
    for alias in ("planner", "writer"):
        answer = re.search(rf"^{alias}: (.+)$", ended.stdout, re.MULTILINE)
        assert answer is not None, ended.stdout
        assert len(answer[1]) > 40
    assert "curl" not in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_it_keeps_running_and_the_lines_to_try_work(running: Demo) -> None:
    running.says("Running until Ctrl-C")
    pids = running.children()
    assert len(pids) == 3
    url = re.search(r"curl (http://\S+)/v1/models", running.text())
    key = re.search(r"Authorization: (Bearer \S+)'", running.text())
    body = re.search(r" -d '(.*)'", running.text())
    assert url is not None
    assert key is not None
    assert body is not None
    connection = http.client.HTTPConnection(urlsplit(url[1]).netloc, timeout=WAIT_S)
    headers = {"Authorization": key[1], "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body[1], headers)
    with connection.getresponse() as response:
        assert response.status == 200
        assert response.read().rstrip().endswith(b"data: [DONE]")
    status = re.search(r"ROLE_MESH_ADMIN_KEY=.*\n.* status --gateway \S+", running.text())
    assert status is not None
    told = subprocess.run(
        ["/bin/sh", "-c", status[0]], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert "BACKEND" in told.stdout
    connection.request("GET", "/v1/models", headers=headers)
    with connection.getresponse() as response:
        listed = [model["id"] for model in json.load(response)["data"]]
    assert sorted(listed) == ["planner", "writer"]
    connection.close()
    assert running.end(signal.SIGINT) == 0
    assert nothing_left(running.folder, pids)


def test_sigterm_before_it_has_begun_to_answer_leaves_nothing_behind(running: Demo) -> None:
    running.says("planner")
    pids = running.children()
    assert running.end(signal.SIGTERM) == 0
    assert nothing_left(running.folder, pids)


def test_when_a_model_server_dies_it_says_so_and_ends(running: Demo) -> None:
    running.says("Running until Ctrl-C")
    pids = running.children()
    os.kill(pids[0], signal.SIGKILL)
    assert running.process.wait(WAIT_S) == 1
    assert "planner ended with exit code -9" in running.text()
    assert "Traceback" not in running.text()
    assert nothing_left(running.folder, pids)


def test_without_the_extra_it_says_what_to_install() -> None:
    barred = (
        "import runpy, sys; sys.modules['xllamacpp'] = None; sys.argv = ['rolemesh', 'demo'];"
        "runpy.run_module('rolemesh', run_name='__main__', alter_sys=True)"
    )
    argv = [sys.executable, "-c", barred]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 1
    assert "pip install '.[llama]'" in ended.stderr
    assert "Traceback" not in ended.stderr
