"""Whose process is whose: mostly tables, and a few real processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rolemesh.node import groups
from rolemesh.node.groups import Entry
from tests.node.wrappers import until

NOBODY = "no marker is this"
HOUSE = f"house-{os.getpid()}."  # the tests may run twice on one machine


def stat(
    parent: int = 1, session: int = 1, started_at: int = 0, state: str = "S", threads: int = 1
) -> Entry:
    rest = f"0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 {started_at} 0 0"
    return Entry(f"7 (a) b (c) {state} {parent} {session} {session} {rest}".encode())


@pytest.fixture
def marked() -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, groups.MARKER: f"{HOUSE}1.12."}
    with subprocess.Popen(["sleep", "1000"], env=env) as process:
        yield process
        process.kill()


def test_a_name_with_parentheses_and_blanks_is_no_trap() -> None:
    each = stat(parent=3, session=4, started_at=5)
    assert (each.parent, each.session, each.started_at, each.dead) == (3, 4, 5, False)


def test_a_zombie_is_dead_unless_it_has_threads() -> None:
    assert stat(state="Z").dead
    assert not stat(state="Z", threads=2).dead


def test_the_session_and_whoever_descends_from_it_belong_to_the_child() -> None:
    table = {
        10: stat(session=10, started_at=5),
        11: stat(session=10),
        12: stat(parent=11, session=12),
        13: stat(parent=12, session=13),
        20: stat(session=20),
    }
    assert groups.Family([(10, 5)], NOBODY).living(table) == {10, 11, 12, 13}


def test_a_pid_that_was_given_out_anew_is_left_alone_with_its_session() -> None:
    table = {10: stat(session=10, started_at=6), 11: stat(session=10), 12: stat(parent=10)}
    assert groups.Family([(10, 5)], NOBODY).living(table) == set()


def test_a_root_that_has_ended_vouches_for_its_session_while_it_is_watched() -> None:
    table = {11: stat(session=10), 12: stat(parent=11, session=12)}
    assert groups.Family([(10, 5)], NOBODY).living(table) == {11, 12}
    assert groups.Family([(10, 5)], NOBODY, long_ago=True).living(table) == set()


def test_the_dead_are_nobody_but_lead_to_the_living() -> None:
    table = {10: stat(session=10, started_at=5, state="Z"), 11: stat(session=10)}
    assert groups.Family([(10, 5)], NOBODY).living(table) == {11}


def test_whoever_was_seen_once_stays_one_of_them() -> None:
    family = groups.Family([(10, 5)], NOBODY)
    before = {10: stat(session=10, started_at=5), 12: stat(parent=10, session=12, started_at=6)}
    assert family.living(before) == {10, 12}
    assert family.living({12: stat(session=12, started_at=6)}) == {12}
    assert family.living({12: stat(session=12, started_at=7)}) == set()


def test_neither_the_first_process_nor_ourselves_are_ever_among_them() -> None:
    table = {1: stat(session=10), os.getpid(): stat(session=10), 11: stat(session=10)}
    assert groups.Family([(10, 5)], NOBODY).living(table) == {11}


def test_the_marker_is_found_by_its_beginning(marked: subprocess.Popen[bytes]) -> None:
    house = HOUSE.encode()
    assert groups.carries(marked.pid, house)
    assert groups.carries(marked.pid, house + b"1.12.")
    assert not groups.carries(marked.pid, house + b"1.1.")
    assert not groups.carries(marked.pid, house[1:])
    found = groups.Family([], HOUSE).living(groups.table())
    assert marked.pid in found


def test_what_started_before_the_child_carries_nobodys_marker(
    marked: subprocess.Popen[bytes],
) -> None:
    itself = groups.entry(marked.pid)
    assert itself is not None
    assert groups.Family([], HOUSE, since=itself.started_at).living(groups.table()) == {marked.pid}
    assert groups.Family([], HOUSE, since=itself.started_at + 1).living(groups.table()) == set()


def test_a_process_in_the_middle_of_an_exec_keeps_its_marker() -> None:
    """It has no environment for a moment then, which is not to be taken for one without marker."""
    again = "os.execv(sys.executable, [sys.executable, *'-I -S -c'.split(), sys.argv[2], "
    again += "str(int(sys.argv[1]) - 1), sys.argv[2]])"
    text = f"import os, sys; {again} if int(sys.argv[1]) else (print(flush=True), input())"
    env = {**os.environ, groups.MARKER: f"{HOUSE}2."}
    argv = [sys.executable, "-I", "-S", "-c", text, "15", text]
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        while not process.stdout.read():
            assert groups.carries(process.pid, f"{HOUSE}2.".encode())
        process.communicate(b"\n")
    assert process.returncode == 0


def test_a_process_that_is_not_there_says_nothing() -> None:
    assert groups.entry(2**22 + 1) is None
    assert not groups.carries(2**22 + 1, b"")


async def test_the_end_is_asked_for_once_and_then_enforced(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    text = f"trap 'echo TERM >>{heard}' TERM; echo >>{heard}.on; while :; do sleep 0.05; done"
    with subprocess.Popen(["sh", "-c", text]) as deaf:
        await until(Path(f"{heard}.on").exists)

        itself = groups.entry(deaf.pid)
        assert itself is not None
        family = groups.Family([(deaf.pid, itself.started_at)], NOBODY)
        found, left = await asyncio.to_thread(groups.end, family, 0.4, 10)
    assert deaf.pid in found
    assert left == set()
    assert deaf.returncode == -9
    assert heard.read_text() == "TERM\n"


def test_giving_up_tells_who_is_left(marked: subprocess.Popen[bytes]) -> None:
    itself = groups.entry(marked.pid)
    assert itself is not None
    family = groups.Family([(marked.pid, itself.started_at)], NOBODY)
    assert groups.end(family, 1, 0) == (set(), {marked.pid})


async def test_reading_and_mapping_is_work(tmp_path: Path) -> None:
    text = "import sys\nfor line in sys.stdin: held = bytearray(2**20); print(flush=True)"
    argv = [sys.executable, "-I", "-S", "-c", text]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        before = groups.work([process.pid])
        assert groups.work([process.pid]) == before
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert groups.work([process.pid]) > before
        process.stdin.close()
