"""Children that flood their output: they cost no memory, and the log stays bounded."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

import pytest

from rolemesh.node.child_log import ChildLog
from rolemesh.node.child_output import PIPE_BYTES, ChildOutput, pipe
from rolemesh.node.guardian import Guardian
from rolemesh.node.process import Process
from tests.node.wrappers import until

LIMIT = 2**20


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("argv", [["yes"], ["cat", "/dev/zero"], ["cat", "/dev/urandom"]])
async def test_a_flood_costs_no_memory_and_a_bounded_file(argv: list[str], tmp_path: Path) -> None:
    guardian = await Guardian.start("test")
    log = ChildLog(tmp_path, "flood", limit_bytes=LIMIT)
    child = await Process.start(argv, os.environ, log, guardian, guardian.marker())
    old = tmp_path / "flood.log.1"
    await until(old.exists)
    before, first = memory_bytes(), old.stat().st_ino
    await until(lambda: old.stat().st_ino != first)
    said_at = child.last_output_at
    await until(lambda: child.last_output_at > said_at)
    assert memory_bytes() - before < 4 * LIMIT
    assert all(each.stat().st_size < 2 * LIMIT for each in tmp_path.iterdir())
    assert await asyncio.to_thread(log.tail, 3)
    child.kill()
    async with asyncio.timeout(10):
        await child.gone()
    assert log.tail(1)[0].endswith("has ended: killed by SIGKILL")
    await guardian.close()


async def test_a_burst_holds_nobody_up(tmp_path: Path) -> None:
    """As much as the pipe holds can be written at once, whether it is read or not."""
    read, write = pipe()
    os.set_blocking(write, False)
    assert os.write(write, b"x" * 2 * PIPE_BYTES) == PIPE_BYTES
    log = ChildLog(tmp_path, "burst")
    output = ChildOutput(read, log)
    output.start()
    os.close(write)
    async with asyncio.timeout(10):
        await output.ended.wait()
    assert log.path.stat().st_size == PIPE_BYTES
    log.close()


async def test_a_place_that_cannot_be_written_does_not_hold_it_up(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.write_text("a file")
    guardian = await Guardian.start("test")
    log = ChildLog(folder, "tiny")
    argv = ["sh", "-c", "head -c 5000000 /dev/zero; echo; echo done"]
    child = await Process.start(argv, os.environ, log, guardian, guardian.marker())
    async with asyncio.timeout(10):
        assert await child.exited == 0
        await child.gone()
    assert log.tail(1) == ["done"]
    await guardian.close()
