"""The guardian, with real processes: what is left of a node that died is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rolemesh.node import groups
from rolemesh.node.guardian import Guardian
from rolemesh.node.guardian_main import watched
from tests.node import stand_in
from tests.node.wrappers import alive, living, noted, until

ROOT = Path(__file__).resolve().parents[2]
# What the node promises.
GONE_WITHIN_S = 5.0


class Node:
    """A stand-in, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.pids = folder / "pids"
        argv = [sys.executable, "-m", "tests.node.stand_in", str(self.pids), str(folder)]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
        self.guardian = 0

    async def ready(self) -> None:
        await self.new_guardian()
        await until(lambda: len(noted(self.pids)) == stand_in.PROCESSES, within_s=30)
        assert len(living(self.pids)) == stand_in.PROCESSES

    async def new_guardian(self) -> None:
        assert self.process.stdout is not None
        self.guardian = int(await asyncio.to_thread(self.process.stdout.readline))

    async def killed(self) -> float:
        """How long it took until nothing was left."""
        begun = time.monotonic()
        self.process.kill()
        await until(lambda: not living(self.pids) and not alive(self.guardian))
        return time.monotonic() - begun


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    with node.process:
        node.process.kill()
    for pid in living(node.pids):  # the test has failed
        os.kill(pid, signal.SIGKILL)


async def test_nothing_is_left_of_a_node_that_was_killed(node: Node) -> None:
    await node.ready()
    assert await node.killed() < GONE_WITHIN_S


async def test_nor_when_the_guardian_was_killed_before_it(node: Node) -> None:
    await node.ready()
    os.kill(node.guardian, signal.SIGKILL)
    await node.new_guardian()
    assert len(living(node.pids)) == stand_in.PROCESSES
    assert await node.killed() < GONE_WITHIN_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_to_everybody_do_not_end_it(number: signal.Signals) -> None:
    guardian = await Guardian.start("test")
    pid = guardian.pid
    await until(lambda: ignores(pid, number))
    os.kill(pid, number)
    guardian.watch(1, 1, "nobody")
    guardian.forget("nobody")
    await asyncio.sleep(0.05)
    assert guardian.pid == pid
    assert alive(pid)
    await guardian.close()


def ignores(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    ignored = next(line for line in lines if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) >> (number - 1) & 1)


async def test_it_ends_with_the_node(caplog: pytest.LogCaptureFixture) -> None:
    guardian = await Guardian.start("test")
    pid = guardian.pid
    await guardian.close()
    assert groups.entry(pid) is None  # waited for, too
    assert guardian.pid == 0
    assert not caplog.records


async def test_it_holds_a_pipe_and_nothing_else_of_the_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        guardian = await Guardian.start("test")
        folder = Path(f"/proc/{guardian.pid}")
        await until(lambda: ignores(guardian.pid, signal.SIGTERM))
        links = sorted(os.readlink(each) for each in (folder / "fd").iterdir())
        session = groups.entry(guardian.pid)
        assert links[:2] == ["/dev/null", "/dev/null"]
        assert [link.split(":")[0] for link in links[2:]] == ["pipe"]
        assert os.readlink(folder / "cwd") == "/"
        assert session is not None
        assert session.session == guardian.pid
        await guardian.close()


async def test_one_that_was_stopped_is_replaced_and_the_new_one_told_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it was told fills the pipe; waiting for it would stop the node, too."""
    guardian = await Guardian.start("test")
    first = guardian.pid
    env = {**os.environ, groups.MARKER: "unknown"}
    with subprocess.Popen(["sleep", "1000"], env=env, start_new_session=True) as child:
        itself = groups.entry(child.pid)
        assert itself is not None
        guardian.watch(child.pid, itself.started_at, "a")
        os.kill(first, signal.SIGSTOP)
        for _ in range(4000):
            guardian.watch(1, 1, "b")
            guardian.forget("b")
        await until(lambda: guardian.pid not in (0, first))
        assert groups.entry(first) is None
        assert "another one is started" in caplog.text
        second = guardian.pid
        await guardian.close()  # with a child left
        assert await asyncio.to_thread(child.wait, 10) == -signal.SIGTERM
        await until(lambda: not alive(second))
        with contextlib.suppress(ChildProcessError):
            os.waitpid(second, 0)


async def test_markers_are_one_child_s_each_and_this_run_s() -> None:
    first, second = await Guardian.start("house"), await Guardian.start("house")
    markers = [first.marker(), first.marker(), second.marker()]
    assert len(set(markers)) == 3
    assert all(marker.startswith("house.") and marker.endswith(".") for marker in markers)
    assert markers[0].split(".")[1] == markers[1].split(".")[1] != markers[2].split(".")[1]
    await first.close()
    await second.close()


def test_what_was_forgotten_is_watched_no_more() -> None:
    lines = ["watch 1 10 a\n", "watch 2 20 b\n", "forget a\n", "forget c\n", "nonsense\n", "\n"]
    assert watched(lines) == {"b": (2, 20)}
