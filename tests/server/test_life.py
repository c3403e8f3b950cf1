"""A daemon's life in a real process: what signals do to it, and what systemd is told."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rolemesh.errors import RunError
from rolemesh.server import life

# Says each step on stdout; sys.argv[1] chooses what goes wrong.
DAEMON = """
import asyncio, sys
from rolemesh.server.life import run

how = sys.argv[1]
say = lambda text: print(text, flush=True)

class Daemon:
    reloads = 0
    async def startup(self):
        say("startup")
        if how == "slow startup":
            await asyncio.sleep(60)
    async def reload(self):
        self.reloads += 1
        say(f"reload {self.reloads} begins")
        await asyncio.sleep(0.3)
        say(f"reload {self.reloads} ends")
    async def drain(self):
        say("drain")
        if how == "long drain":
            await asyncio.sleep(60)
    async def shutdown(self):
        say("shutdown")
        if how == "hanging shutdown":
            await asyncio.sleep(60)
    def status(self):
        return f"{self.reloads} reloads"

sys.exit(run(Daemon))
"""


class Child:
    def __init__(self, how: str, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout

    def says(self, *lines: str) -> None:
        for line in lines:
            assert self.out.readline() == f"{line}\n"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, code: int) -> None:
        rest, errors = self.process.communicate(timeout=15)
        assert (rest, errors) == ("", "")
        assert self.process.returncode == code


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        yield receiver


@pytest.fixture
def begin(supervisor: socket.socket):
    children: list[Child] = []

    def started(how: str = "", **env: str) -> Child:
        child = Child(how, {"NOTIFY_SOCKET": supervisor.getsockname(), **env})
        children.append(child)
        child.says("startup")
        if how != "slow startup":
            assert supervisor.recv(500) == b"READY=1\nSTATUS=0 reloads"
        return child

    yield started
    for child in children:
        child.process.kill()
        child.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_drains_shuts_down_and_exits_0(begin, supervisor: socket.socket, number):
    child = begin()
    child.send(number)
    assert supervisor.recv(500).startswith(b"STOPPING=1\n")
    child.says("drain", "shutdown")
    child.ends(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain_and_exits_130(begin, number):
    child = begin("long drain")
    child.send(signal.SIGTERM)
    child.says("drain")
    child.send(number)
    child.says("shutdown")
    child.ends(130)


def test_a_second_signal_ends_a_shutdown_that_hangs(begin):
    child = begin("hanging shutdown")
    child.send(signal.SIGTERM)
    child.says("drain", "shutdown")
    child.send(signal.SIGTERM)
    child.ends(130)


def test_a_third_signal_does_not_wait_for_anything(begin):
    child = begin("hanging shutdown")
    child.send(signal.SIGTERM)
    child.says("drain", "shutdown")
    child.send(signal.SIGTERM)
    child.send(signal.SIGINT)
    child.ends(130)


def test_a_signal_during_startup_stops_too(begin):
    child = begin("slow startup")
    child.send(signal.SIGTERM)
    child.says("drain", "shutdown")
    child.ends(0)


def test_hangups_during_a_reload_are_answered_by_one_more(begin, supervisor: socket.socket):
    child = begin()
    child.send(signal.SIGHUP)
    child.says("reload 1 begins")
    assert supervisor.recv(500).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    for _ in range(5):
        child.send(signal.SIGHUP)
    child.says("reload 1 ends", "reload 2 begins", "reload 2 ends")
    assert supervisor.recv(500) == b"READY=1\nSTATUS=1 reloads"
    assert supervisor.recv(500).startswith(b"RELOADING=1\n")
    assert supervisor.recv(500) == b"READY=1\nSTATUS=2 reloads"
    child.send(signal.SIGTERM)
    child.says("drain", "shutdown")
    child.ends(0)


def test_the_watchdog_is_told_twice_within_its_time_also_while_draining(
    begin, supervisor: socket.socket
):
    child = begin("long drain", WATCHDOG_USEC="200000")
    for _ in range(3):
        assert supervisor.recv(500) == b"WATCHDOG=1\nSTATUS=0 reloads"
    child.send(signal.SIGTERM)
    child.says("drain")
    while supervisor.recv(500) != b"WATCHDOG=1":
        pass
    child.send(signal.SIGTERM)
    child.says("shutdown")
    child.ends(130)


def test_an_error_of_startup_comes_out_after_the_shutdown():
    steps: list[str] = []

    class Failing:
        async def startup(self) -> None:
            raise RunError("cannot listen on 127.0.0.1:1")

        async def reload(self) -> None: ...

        async def drain(self) -> None:
            steps.append("drain")

        async def shutdown(self) -> None:
            steps.append("shutdown")

        def status(self) -> str:
            return ""

    with pytest.raises(RunError, match="cannot listen"):
        life.run(Failing, {})
    assert steps == ["shutdown"]
