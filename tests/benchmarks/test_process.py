"""Processes under measurement: who belongs to one, how it ended, and that nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import process
from benchmarks.process import Process, tree

SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")
STARTS_ONE_IN_A_THREAD = """
import subprocess, sys, threading, time
started = lambda: print(subprocess.Popen([sys.executable, "-c", "input()"],
                                         stdin=subprocess.PIPE).pid, flush=True) or time.sleep(60)
threading.Thread(target=started).start()
"""
LEAVES_ONE_BEHIND = """
import subprocess, sys, time
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""
WILL_NOT_GO = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
STARTS_ONE_AND_WAITS = """
import sys, time
from pathlib import Path
from benchmarks.process import Process, end_on_signals
end_on_signals()
with Process(("sleep", "60"), Path(sys.argv[1])) as started:
    print(started.pids[0], flush=True)
    time.sleep(60)
"""


def is_gone(pid: int) -> bool:
    """Within seconds: whoever adopted it has to reap it, or it stays as a zombie."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_child_that_a_thread_started_belongs_to_the_tree(tmp_path: Path) -> None:
    with Process((sys.executable, "-c", STARTS_ONE_IN_A_THREAD), tmp_path / "log") as started:
        child = int(started.wait_for_line())
        assert tree(started.pids[0])[1:] == (child,)


def test_how_it_ended_is_kept(tmp_path: Path) -> None:
    with Process(SLEEPER, tmp_path / "log") as started:
        assert not started.was_killed
    assert (started.returncode, started.was_killed) == (-signal.SIGTERM, False)


def test_one_that_does_not_go_is_killed_and_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.1)
    with Process((sys.executable, "-c", WILL_NOT_GO), tmp_path / "log") as started:
        started.wait_for_line()
    assert (started.returncode, started.was_killed) == (-signal.SIGKILL, True)


def test_nothing_of_its_group_outlives_it(tmp_path: Path) -> None:
    with Process((sys.executable, "-c", LEAVES_ONE_BEHIND), tmp_path / "log") as started:
        child = int(started.wait_for_line())
    assert not started.was_killed
    assert is_gone(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_ends_what_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    argv = (sys.executable, "-c", STARTS_ONE_AND_WAITS, str(tmp_path / "log"))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        child = int(command.stdout.readline())
        command.send_signal(number)
        code = command.wait(20)
    gone = is_gone(child)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    assert gone
    assert code == 128 + number
