"""A process under measurement: started, waited for, its tree's CPU time and memory read, ended.

CPU time is the kernel's account of each process with all its threads, in nanoseconds: user and
system time as in /proc/PID/stat, without that file's ticks of 10 ms. It does not grow while others
have the CPU. Memory is the proportional set size: shared pages count once over all who share them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

START_S = 20.0
STOP_S = 10.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_CPUCLOCK_SCHED = 2  # of a whole process: (~pid << 3) | 2, as clock_getcpuclockid(3) makes it


def cpu_s(pids: Sequence[int]) -> float:
    return sum(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def pss_bytes(pids: Sequence[int]) -> int:
    return sum(_pss_bytes(pid) for pid in pids)


def tree(pid: int) -> tuple[int, ...]:
    """The process and all below it, whichever of its threads started them."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for each in tasks for child in _children(each)]
    return (pid, *(each for child in children for each in tree(child)))


def _children(task: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # threads end meanwhile
        return task.read_text().split()
    return []


def end_on_signals() -> None:
    """SIGTERM and SIGHUP end this process as an exception does, and so what it has started too.
    They are left alone where whoever started it has them ignored, as nohup does."""
    for each in _ENDING:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)  # a second one would cut the ending short
    sys.exit(128 + number)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Process:
    """`with Process(argv, log) as process`: everything it prints goes to the file `log`.
    `returncode`: None until it was stopped. `was_killed`: SIGTERM was not enough."""

    def __init__(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.returncode: int | None = None
        self.was_killed = False
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pids(self) -> tuple[int, ...]:
        return tree(self._process.pid)

    def wait_for_port(self, port: int, start_s: float = START_S) -> None:
        """Until it accepts connections. Raises RuntimeError with the log when it does not."""
        deadline = time.monotonic() + start_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            time.sleep(0.02)
        raise self.failed("does not listen")

    def wait_for_line(self) -> str:
        """The first line that it prints. Raises RuntimeError when there is none."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            line, end, _ = self._log.read_text().partition("\n")
            if end:
                return line
            time.sleep(0.02)
        raise self.failed("says nothing")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL should it not go; nothing of its group outlives it."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.was_killed = True
            self._process.kill()
        self.returncode = self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def failed(self, what: str) -> RuntimeError:
        """To be raised or shown: what happened, with the last of what the process has said."""
        log = self._log.read_text(errors="replace")[-2000:]
        return RuntimeError(f"{self._process.args!r} {what}:\n{log}")


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Pss")
