"""The state file: what survives, what is set aside, and that nothing but the lock is fatal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from rolemesh.errors import RunError
from rolemesh.store import file as store
from rolemesh.store.file import StateFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "gateway.json"


async def written(path: Path, data: dict[str, object]) -> None:
    state = StateFile(path)
    state.open()
    await state.close(lambda: data)


async def until_there(path: Path) -> None:
    async with asyncio.timeout(5):
        while not path.exists():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)


async def test_what_was_written_is_read_again(path: Path):
    await written(path, {"nodes": [{"node_id": "a"}]})
    state = StateFile(path)
    state.open()
    assert state.read() == {"nodes": [{"node_id": "a"}]}
    assert 0 <= state.age_s < 5
    await state.close()


async def test_nothing_there_reads_as_nothing(path: Path):
    state = StateFile(path)
    state.open()
    assert state.read() is None
    await state.close()
    assert not path.exists()


async def test_only_the_owner_can_read_it(path: Path):
    before = os.umask(0)
    try:
        await written(path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_second_process_is_refused_until_the_first_is_gone(path: Path):
    first, second = StateFile(path), StateFile(path)
    first.open()
    with pytest.raises(RunError, match="in use by another process"):
        second.open()
    await first.close()
    second.open()
    await second.close()


async def test_a_link_is_the_same_file_as_its_target(path: Path, tmp_path: Path):
    await written(path, {"a": 1})
    link = tmp_path / "link.json"
    link.symlink_to(path)
    first, second = StateFile(path), StateFile(link)
    first.open()
    with pytest.raises(RunError):
        second.open()
    await first.close()
    await written(link, {"a": 2})
    assert link.is_symlink()
    assert json.loads(path.read_text())["data"] == {"a": 2}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format":1,"written_at":0,"data":[]}',
        b'{"format":2,"written_at":0,"data":{}}',
        b'{"format":1,"written_at":0,"data":{"a":"\xff"}}',
        b'{"format":1,"written_at":0,"data":' + b'{"a":' * 100_000,
    ],
)
async def test_a_bad_file_is_set_aside_with_a_warning(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    path.parent.mkdir()
    path.write_bytes(content)
    state = StateFile(path)
    state.open()
    assert state.read() is None
    await state.close()
    assert "left unused" in caplog.text
    assert not path.exists()
    assert path.with_name("gateway.json.corrupt").read_bytes() == content


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


def _loop(path: Path) -> None:
    path.symlink_to(path)


OBSTACLES = {
    "a directory": Path.mkdir,
    "a named pipe": os.mkfifo,
    "a socket": _bind,
    "a symbolic link": _loop,
}


@pytest.mark.parametrize("what", OBSTACLES)
async def test_what_is_no_file_is_refused_at_the_start_and_left_alone(path: Path, what: str):
    path.parent.mkdir()
    OBSTACLES[what](path)
    before = path.lstat()
    with pytest.raises(RunError, match=f"{re.escape(str(path))} .*there is {what}.*state_path"):
        StateFile(f"{path}/").open()
    assert path.lstat() == before
    assert list(path.parent.iterdir()) == [path]


async def test_a_device_is_refused_at_the_start():
    with pytest.raises(RunError, match="/dev/null cannot be used: there is a device"):
        StateFile("/dev/null").open()
    assert not Path("/dev/null.lock").exists()


@pytest.mark.parametrize("what", OBSTACLES)
async def test_what_is_no_file_is_never_replaced_when_it_comes_later(
    path: Path, what: str, caplog: pytest.LogCaptureFixture
):
    state = StateFile(path)
    state.open()
    OBSTACLES[what](path)
    before = path.lstat()
    assert state.read() is None
    state.set_aside("a test")
    await state.close(lambda: {"a": 1})
    assert path.lstat() == before
    assert not path.with_name("gateway.json.corrupt").exists()
    assert caplog.text.count(f"gateway.json is {what}") == 3


@pytest.mark.parametrize("beside", ["gateway.json.corrupt", "gateway.json.new"])
async def test_what_is_no_file_beside_it_is_never_replaced(path: Path, beside: str):
    path.parent.mkdir()
    path.write_bytes(b"{")
    obstacle = path.with_name(beside)
    os.mkfifo(obstacle)
    state = StateFile(path)
    state.open()
    assert state.read() is None
    await state.close(lambda: {"a": 1})
    assert obstacle.is_fifo()


async def test_changes_are_written_by_themselves_and_gathered(path: Path):
    state = StateFile(path)
    state.open()
    snapshots = 0

    def snapshot() -> dict[str, int]:
        nonlocal snapshots
        snapshots += 1
        return {"n": snapshots}

    for _ in range(100):
        state.schedule(snapshot)
    await until_there(path)
    for _ in range(100):
        state.schedule(snapshot)
    assert snapshots == 1
    await state.close()
    assert snapshots == 2
    assert json.loads(path.read_text())["data"] == {"n": 2}


async def test_an_unwritable_place_is_one_warning_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "RETRY_S", 0.01)
    blocked = tmp_path / "a file"
    blocked.write_text("")
    state = StateFile(blocked / "gateway.json")
    state.open()
    assert state.read() is None
    state.schedule(dict)
    await asyncio.sleep(0.1)
    await state.close(dict)
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [("cannot be" in record.getMessage()) for record in warnings] == [True] * 3
    assert sum("cannot be written" in record.getMessage() for record in warnings) == 1


async def test_a_write_that_failed_is_made_up_for(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "RETRY_S", 0.01)
    state = StateFile(path)
    state.open()
    obstacle = path.with_name("gateway.json.new")
    obstacle.mkdir()
    state.schedule(lambda: {"n": 1})
    await asyncio.sleep(0.05)
    assert not path.exists()
    obstacle.rmdir()
    await until_there(path)
    await state.close()
    assert json.loads(path.read_text())["data"] == {"n": 1}


async def test_a_clock_that_went_back_makes_no_negative_age(path: Path):
    path.parent.mkdir()
    path.write_text('{"format":1,"written_at":99999999999,"data":{}}')
    state = StateFile(path)
    assert state.read() == {}
    assert state.age_s == 0


async def test_what_cannot_wait_is_there_when_the_call_returns(path: Path):
    state = StateFile(path)
    state.open()
    for n in range(3):
        await state.write(lambda n=n: {"n": n})
        assert json.loads(path.read_text())["data"] == {"n": n}
    await state.close()
    assert json.loads(path.read_text())["data"] == {"n": 2}


async def test_what_could_not_be_written_at_once_is_made_up_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store, "RETRY_S", 0.01)
    state = StateFile(path)
    state.open()
    obstacle = path.with_name("gateway.json.new")
    obstacle.mkdir()
    await state.write(lambda: {"n": 1})
    assert not path.exists()
    obstacle.rmdir()
    await until_there(path)
    await state.close()
    assert json.loads(path.read_text())["data"] == {"n": 1}
