"""What a former run left, with real processes: ended, and nobody else's touched."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rolemesh.node import groups, leftovers
from rolemesh.node.state import ChildRecord
from tests.node import wrappers
from tests.node.wrappers import WRAPPERS, living, noted, until

# This run's own: the tests may run twice on one machine.
OWNER = f"house-{os.getpid()}"
SIBLING = f"{OWNER}-next-door"


class Street:
    """Processes of several owners. None of them is waited for: their own node has died."""

    def __init__(self, folder: Path) -> None:
        self.pids = folder / "pids"
        self.started: list[subprocess.Popen[bytes]] = []

    async def start(self, kind: str, marker: str) -> ChildRecord:
        before = len(noted(self.pids))
        env = {**wrappers.env(self.pids), groups.MARKER: marker}
        child = subprocess.Popen(wrappers.argv(kind), env=env, start_new_session=True)
        self.started.append(child)
        await until(lambda: len(noted(self.pids)) == before + WRAPPERS[kind][1])
        itself = groups.entry(child.pid)
        assert itself is not None
        return ChildRecord(child.pid, itself.started_at, marker, "tiny")


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    street = Street(tmp_path)
    yield street
    for pid in living(street.pids):
        os.kill(pid, signal.SIGKILL)
    for child in street.started:
        child.wait()


async def test_a_child_that_is_remembered_is_ended_with_all_that_is_its(street: Street) -> None:
    kind = "ignores SIGTERM, and its child with it"
    child = await street.start(kind, "a marker that nobody looks for")
    told = await leftovers.end([child], OWNER)
    assert living(street.pids) == []
    assert f"process {child.pid} (tiny), left by a former run, was ended" in told
    assert len(told) == 2


async def test_one_that_was_not_remembered_is_known_by_its_marker(street: Street) -> None:
    await street.start("makes a session and leaves it", f"{OWNER}.old.1.")
    assert len(await leftovers.end([], OWNER)) == 2
    assert living(street.pids) == []


async def test_neither_a_sibling_s_child_nor_a_pid_given_out_anew_is_touched(
    street: Street,
) -> None:
    sibling = await street.start("waits for a child", f"{SIBLING}.old.1.")
    another = ChildRecord(sibling.pid, sibling.started_at - 1, f"{OWNER}.old.1.", "tiny")
    nobody = ChildRecord(2**22 + 1, 7, f"{OWNER}.old.2.", "tiny")
    assert await leftovers.end([another, nobody], OWNER) == ()
    assert len(living(street.pids)) == 2


async def test_nothing_left_is_nothing_told() -> None:
    assert await leftovers.end([], OWNER) == ()


async def test_the_event_loop_turns_meanwhile(street: Street) -> None:
    child = await street.start("ignores SIGTERM, and its child with it", "m")
    ending = asyncio.create_task(leftovers.end([child], OWNER))
    turns = 0
    while not ending.done():
        turns += 1
        await asyncio.sleep(0.01)
    assert turns > 10
