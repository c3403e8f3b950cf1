"""Children, with real processes: how they begin, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rolemesh.node import groups, process
from rolemesh.node.child_log import ChildLog
from rolemesh.node.guardian import Guardian
from rolemesh.node.process import Process, StartFailed, how
from tests.node import wrappers
from tests.node.wrappers import WRAPPERS, alive, living, noted, until

Starter = Callable[..., Coroutine[Any, Any, Process]]
WITHIN_S = 10


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


@pytest.fixture
def log(tmp_path: Path) -> ChildLog:
    return ChildLog(tmp_path / "logs", "tiny")


@pytest.fixture
async def guardian() -> AsyncIterator[Guardian]:
    guardian = await Guardian.start("test")
    yield guardian
    await guardian.close()


@pytest.fixture
async def start(guardian: Guardian, log: ChildLog, pids: Path) -> AsyncIterator[Starter]:
    started: list[Process] = []

    async def start(*argv: str) -> Process:
        env = wrappers.env(pids)
        child = await Process.start(argv, env, log, guardian, guardian.marker())
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        await gone(child)


async def gone(child: Process) -> None:
    async with asyncio.timeout(WITHIN_S):
        await child.gone()


@pytest.mark.parametrize("kind", WRAPPERS)
async def test_nothing_of_a_wrapper_is_left(kind: str, start: Starter, pids: Path) -> None:
    child = await start(*wrappers.argv(kind))
    await until(lambda: len(noted(pids)) == WRAPPERS[kind][1])
    child.terminate()
    if "ignores" in kind:
        await asyncio.sleep(0.2)
        assert len(living(pids)) == 2
        child.kill()
    await gone(child)
    assert living(pids) == []
    assert child.exited.result() < 0


async def test_what_a_crash_leaves_behind_is_killed_at_once(start: Starter, pids: Path) -> None:
    kind = "ignores SIGTERM, and its child with it"
    child = await start(*wrappers.argv(kind))
    await until(lambda: len(noted(pids)) == WRAPPERS[kind][1])
    os.kill(child.pid, signal.SIGKILL)
    await gone(child)
    assert child.exited.result() == -9
    assert living(pids) == []


async def test_a_grandchild_may_take_its_time_after_its_wrapper(start: Starter, pids: Path) -> None:
    """The wrapper ends at once on SIGTERM; the server behind it finishes."""
    slow = (
        "trap 'sleep 0.3; echo well >>$PIDS.end; exit' TERM; echo $$ >>$PIDS; "
        "while :; do sleep 0.02; done"
    )
    child = await start("sh", "-c", f"sh -c {shlex.quote(slow)} & wait")
    await until(lambda: noted(pids))
    child.terminate()
    await gone(child)
    assert living(pids) == []
    assert Path(f"{pids}.end").read_text() == "well\n"


async def test_sigterm_comes_once(start: Starter, pids: Path) -> None:
    text = "trap 'echo TERM >>$PIDS.heard' TERM; echo $$ >>$PIDS; while :; do sleep 0.02; done"
    child = await start("sh", "-c", text)
    await until(lambda: noted(pids))
    child.terminate()
    child.terminate()
    await asyncio.sleep(0.5)
    child.terminate()
    child.kill()
    await gone(child)
    assert Path(f"{pids}.heard").read_text() == "TERM\n"


async def test_the_exit_code_is_told_once_and_nobody_stays_a_zombie(start: Starter) -> None:
    child = await start("sh", "-c", "exit 3")
    assert await child.exited == 3
    await gone(child)
    assert groups.entry(child.pid) is None
    child.terminate()
    child.kill()
    await gone(child)
    assert child.exited.result() == 3


async def test_it_is_known_by_pid_start_time_and_marker(start: Starter) -> None:
    child = await start("sleep", "1000")
    itself = groups.entry(child.pid)
    assert itself is not None
    assert (itself.started_at, itself.session, itself.group) == (
        child.started_at,
        child.pid,
        child.pid,
    )
    assert groups.carries(child.pid, child.marker.encode())


async def test_it_inherits_no_descriptor_and_no_input(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        child = await start("sleep", "1000")
        await until(lambda: "sleep" in os.readlink(f"/proc/{child.pid}/exe"))
        assert sorted(os.listdir(f"/proc/{child.pid}/fd")) == ["0", "1", "2"]
        assert os.readlink(f"/proc/{child.pid}/fd/0") == "/dev/null"
        assert os.readlink(f"/proc/{child.pid}/cwd") == os.getcwd()


async def test_all_that_it_says_is_in_the_log_when_it_has_gone(
    start: Starter, log: ChildLog
) -> None:
    child = await start("sh", "-c", "echo one; echo two >&2; printf three; exit 1")
    await gone(child)
    began, *said, ended = log.tail(10)
    assert began.endswith("has started: sh -c 'echo one; echo two >&2; printf three; exit 1'")
    assert said == ["one", "two", "three"]
    assert ended.endswith(f"{child.pid} has ended: exit code 1")
    assert log.last_words(2) == ["two", "three"]


async def test_output_is_a_sign_of_life(start: Starter, log: ChildLog, pids: Path) -> None:
    child = await start("sh", "-c", "while [ ! -e $PIDS ]; do sleep 0.02; done; echo now; sleep 99")
    before = child.last_output_at
    assert abs(before - asyncio.get_running_loop().time()) < WITHIN_S
    pids.touch()
    await until(lambda: log.last_words(1) == ["now"])
    assert child.last_output_at > before


async def test_only_its_own_server_is_its_own(start: Starter, pids: Path) -> None:
    text = (
        "import os, socket; s = socket.create_server(('127.0.0.1', 0)); "
        "open(os.environ['PIDS'], 'w').write(f'{s.getsockname()[1]}\\n'); s.accept()"
    )
    child = await start("sh", "-c", f'{sys.executable} -I -S -c "{text}" & wait')
    await until(lambda: noted(pids))
    other = await start("sleep", "1000")
    port = noted(pids)[0]
    assert await asyncio.to_thread(child.listens, port)
    assert not await asyncio.to_thread(other.listens, port)
    assert await asyncio.to_thread(child.work) > 0


@pytest.fixture
def unfit(tmp_path: Path) -> Callable[[str], Path]:
    def unfit(content: str) -> Path:
        path = tmp_path / "llama-server"
        path.write_text(content)
        path.chmod(0o755)
        return path

    return unfit


async def test_a_program_that_is_missing_is_told_in_words(start: Starter, tmp_path: Path) -> None:
    with pytest.raises(StartFailed) as failed:
        await start(str(tmp_path / "llama-server"))
    assert failed.value.reason == f"{tmp_path}/llama-server was not found"


async def test_so_is_one_that_is_not_executable(
    start: Starter, unfit: Callable[[str], Path]
) -> None:
    path = unfit("#!/bin/sh\n")
    path.chmod(stat.S_IRUSR)
    with pytest.raises(StartFailed, match="it is not executable"):
        await start(str(path))


async def test_so_is_one_without_its_interpreter(
    start: Starter, unfit: Callable[[str], Path]
) -> None:
    with pytest.raises(StartFailed, match="the interpreter in its first line is missing"):
        await start(str(unfit("#!/nonexistent/sh\n")))


async def test_so_is_one_for_another_machine(start: Starter, unfit: Callable[[str], Path]) -> None:
    with pytest.raises(StartFailed, match="no program for this machine"):
        await start(str(unfit("\x7fELF and no more")))


async def test_so_are_words_that_no_program_can_be_given(start: Starter) -> None:
    with pytest.raises(StartFailed, match="cannot be started: embedded null byte"):
        await start("sleep", "1\0")
    with pytest.raises(StartFailed, match="cannot be started: Argument list too long"):
        await start("sleep", "1" * 2**22)


async def test_a_start_that_is_called_off_leaves_nothing(
    start: Starter, pids: Path, log: ChildLog
) -> None:
    starting = asyncio.create_task(start("sh", "-c", "echo $$ >>$PIDS; exec sleep 1000"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: log.tail(1))
    pid = int(log.tail(1)[0].split()[2])
    await until(lambda: groups.entry(pid) is None)
    assert living(pids) == []


async def test_orphans_that_become_our_own_children_do_not_stay(tmp_path: Path) -> None:
    """As in a container, where the node is the first process. In a process of its own, which
    adopts (PR_SET_CHILD_SUBREAPER)."""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.node.adopting", str(tmp_path), stdout=subprocess.PIPE
    )
    said, _ = await done.communicate()
    assert (done.returncode, said.split()) == (0, [b"orphans:", b"0"])


def test_an_exit_in_words() -> None:
    assert how(1) == "exit code 1"
    assert how(-9) == "killed by SIGKILL"
    assert how(-40) == "killed by signal 40"


def test_a_living_process_is_alive() -> None:
    assert alive(os.getpid())
    assert process.how(0) == "exit code 0"


async def test_a_machine_out_of_descriptors_does_not_end_the_ending(
    start: Starter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child = await start("sleep", "1000")
    table, failures = groups.table, [OSError(24, "Too many open files"), RuntimeError("no thread")]

    def blind() -> dict[int, groups.Entry]:
        if failures:
            raise failures.pop()
        return table()

    monkeypatch.setattr(groups, "table", blind)
    child.terminate()
    await gone(child)
    assert not failures
    assert len([each for each in caplog.records if "looked for again" in each.message]) == 1
