"""`rolemesh demo` as a user runs it: a real gateway, a real node, nothing left behind."""

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

from rolemesh.node import groups
from tests.llama import until
from tests.node_process import alive

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

    def family(self) -> dict[int, str]:
        """The processes that it has started, and these in turn; with their command lines."""
        itself = groups.entry(self.process.pid)
        assert itself is not None
        roots = [(self.process.pid, itself.started_at)]
        everybody = groups.Family(roots, marker="none has it").living(groups.table())
        return {pid: command_line(pid) for pid in everybody - {self.process.pid}}

    def pids_of(self, word: str) -> set[int]:
        return {pid for pid, line in self.family().items() if word in line}

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


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


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
    family = running.family()
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
    connection.request("GET", "/v1/models", headers=headers)
    with connection.getresponse() as response:
        listed = [model["id"] for model in json.load(response)["data"]]
    assert sorted(listed) == ["planner", "writer"]
    connection.close()
    status = r"ROLE_MESH_ADMIN_KEY=.*\n.* status --gateway \S+"
    ready = re.compile(r"writer-tiny +demo +writer +READY")
    # The gateway may hear of it a second later.
    until(lambda: bool(ready.search(tried(running, status))), "the writer's model is READY")
    assert running.end(signal.SIGINT) == 0
    assert alive(family) == set()
    assert not any(running.folder.iterdir())


def tried(running: Demo, pattern: str) -> str:
    """What a line to try says."""
    line = re.search(pattern, running.text())
    assert line is not None
    argv = ["/bin/sh", "-c", line[0]]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    return told.stdout


def test_sigterm_before_it_has_begun_to_answer_leaves_nothing_behind(running: Demo) -> None:
    running.says("node ")
    family = running.family()
    assert running.end(signal.SIGTERM) == 0
    assert alive(family) == set()
    assert not any(running.folder.iterdir())


def test_killed_it_leaves_no_process_behind(running: Demo) -> None:
    running.says("Running until Ctrl-C")
    family = running.family()
    words = "rolemesh gateway", "rolemesh node", "rolemesh.builtin", "guardian_main"
    assert all(any(word in line for line in family.values()) for word in words), family
    running.end(signal.SIGKILL)
    until(lambda: not alive(family), "everybody is gone", within_s=5)


def test_when_the_node_dies_it_says_so_and_ends(running: Demo) -> None:
    running.says("Running until Ctrl-C")
    family = running.family()
    os.kill(running.pids_of("rolemesh node").pop(), signal.SIGKILL)
    assert running.process.wait(WAIT_S) == 1
    assert "the node ended: killed by SIGKILL" in running.text()
    assert "Traceback" not in running.text()
    assert alive(family) == set()
    assert not any(running.folder.iterdir())


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
