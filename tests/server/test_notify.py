"""sd_notify messages, received on a real socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rolemesh.server.notify import Notifier


@pytest.fixture
def supervisor(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(2)
        yield receiver


def test_without_a_socket_nothing_is_sent_and_nothing_fails():
    notifier = Notifier.from_env({})
    notifier.ready("ok")
    notifier.close()
    assert notifier.watchdog_s is None


def test_ready_carries_the_status_on_one_line(supervisor: socket.socket):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": supervisor.getsockname()})
    notifier.ready("2 aliases\nFDSTORE=1")
    assert supervisor.recv(1000) == b"READY=1\nSTATUS=2 aliases FDSTORE=1"
    notifier.close()


def test_reloading_carries_the_monotonic_time(supervisor: socket.socket):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": supervisor.getsockname()})
    notifier.reloading()
    lines = supervisor.recv(1000).decode().splitlines()
    assert lines[0] == "RELOADING=1"
    assert lines[1].removeprefix("MONOTONIC_USEC=").isdigit()
    notifier.close()


def test_an_abstract_name_begins_with_an_at_sign():
    name = f"rolemesh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(b"\0" + name.encode())
        receiver.settimeout(2)
        notifier = Notifier.from_env({"NOTIFY_SOCKET": f"@{name}"})
        notifier.send("STOPPING=1")
        assert receiver.recv(100) == b"STOPPING=1"
        notifier.close()


def test_a_supervisor_that_does_not_read_never_makes_us_wait(supervisor: socket.socket):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": supervisor.getsockname()})
    for _ in range(2000):
        notifier.send("STATUS=" + "x" * 1000)
    notifier.close()


def test_a_supervisor_that_is_gone_is_no_error(tmp_path: Path):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready("ok")
    notifier.close()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_time_is_taken_only_when_it_is_meant_for_us(
    env: dict[str, str], expected: float | None, tmp_path: Path
):
    notifier = Notifier.from_env({"NOTIFY_SOCKET": str(tmp_path / "n"), **env})
    assert notifier.watchdog_s == expected
    notifier.close()
