"""One measurement: a job run against a port, and what it cost the processes behind that port."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

import msgspec
from attrs import frozen

from benchmarks.job import DONE, OPEN, READY, Job, Outcome
from benchmarks.process import cpu_s, pss_bytes

GRACE_S = 60.0  # for what comes before and after the job itself


@frozen
class Measured:
    """`pss_open_bytes`: with every stream, or every idle connection, open; None for others."""

    outcome: Outcome
    cpu_s: float
    upstream_cpu_s: float
    pss_open_bytes: int | None


def measure(job: Job, pids: Sequence[int], upstream_pids: Sequence[int]) -> Measured:
    """Raises RuntimeError when the generator does not come to its end."""
    argv = [sys.executable, "-m", "benchmarks.generator"]
    pss_open = None
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        watchdog = threading.Timer(job.duration_s + 2 * job.give_up_s + GRACE_S, process.kill)
        watchdog.start()
        try:
            to, told = _pipes(process)
            to.write(msgspec.json.encode(job).decode() + "\n")
            _await(told, READY)
            if job.idle:
                pss_open = pss_bytes(pids)
            before, upstream_before = cpu_s(pids), cpu_s(upstream_pids)
            to.write("go\n")
            word = _await(told, OPEN, DONE)
            if word == OPEN:
                pss_open = pss_bytes(pids)
                _await(told, DONE)
            outcome = msgspec.json.decode(told.readline(), type=Outcome)
            spent, upstream_spent = cpu_s(pids) - before, cpu_s(upstream_pids) - upstream_before
            to.write("end\n")
        finally:
            watchdog.cancel()
            process.kill()
    return Measured(outcome, spent, upstream_spent, pss_open)


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the load generator has no pipes")
    return process.stdin, process.stdout


def _await(told: IO[str], *words: str) -> str:
    word = told.readline().strip()
    if word not in words:
        raise RuntimeError(f"the load generator said {word!r} instead of {' or '.join(words)}")
    return word
