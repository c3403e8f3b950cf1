"""A model's log file: bounded, safe against what stands in its place, readable from its end."""

from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from rolemesh.node import child_log
from rolemesh.node.child_log import LINE_CHARS, MAX_LINES, ChildLog, file_name

CUT = "\N{HORIZONTAL ELLIPSIS}"


@pytest.fixture
def log(tmp_path: Path) -> ChildLog:
    return ChildLog(tmp_path / "logs", "tiny", limit_bytes=10_000)


def say(log: ChildLog, data: bytes) -> None:
    log.write(memoryview(data))


NAMES = [
    "tiny",
    "org/model",
    "org_model",
    "org%2Fmodel",
    "..",
    ".",
    ".hidden",
    "../../etc/passwd",
    "Größe:latest",
    "a" * 250,
    "a" * 251,
    "\udc80",
]


def test_every_model_has_a_file_of_its_own_in_the_folder() -> None:
    names = [file_name(model_id) for model_id in NAMES]
    assert names[:3] == ["tiny.log", "org%2Fmodel.log", "org_model.log"]
    assert len(set(names)) == len(NAMES)
    for name in names:
        assert name.isascii()
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) < 240


def test_lines_are_read_from_the_end(log: ChildLog) -> None:
    say(log, b"".join(b"line %d\n" % number for number in range(100)))
    assert log.tail(2) == ["line 98", "line 99"]
    assert log.tail(200) == [f"line {number}" for number in range(100)]
    assert log.tail(0) == []


def test_a_line_that_has_not_ended_counts(log: ChildLog) -> None:
    say(log, b"one\r\ntwo")
    assert log.tail(1) == ["two"]
    assert log.tail(5) == ["one", "two"]


def test_nothing_said_is_no_line(log: ChildLog) -> None:
    assert log.tail(5) == []
    assert log.last_words(5) == []


def test_only_the_owner_can_read_it(log: ChildLog) -> None:
    before = os.umask(0)
    try:
        say(log, b"secret\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700


def test_it_is_bounded_and_one_old_file_is_kept(log: ChildLog) -> None:
    for number in range(10_000):
        say(log, b"line %d\n" % number)
    assert sorted(os.listdir(log.path.parent)) == ["tiny.log", "tiny.log.1"]
    assert all(each.stat().st_size <= 10_100 for each in log.path.parent.iterdir())
    assert log.tail(900) == [f"line {number}" for number in range(9_100, 10_000)]


def test_more_lines_than_may_be_asked_for(tmp_path: Path) -> None:
    log = ChildLog(tmp_path, "tiny")
    say(log, b"x\n" * (MAX_LINES + 10))
    assert len(log.tail(MAX_LINES + 5)) == MAX_LINES


def test_a_line_without_end_is_cut_on_both_sides(tmp_path: Path) -> None:
    log = ChildLog(tmp_path, "tiny")
    say(log, b"x" * 2**20)
    (line,) = log.tail(3)
    assert line == f"{CUT}{'x' * LINE_CHARS}{CUT}"
    say(log, b"\nend\n")
    assert log.tail(1) == ["end"]


def test_what_would_drive_a_terminal_is_escaped(log: ChildLog) -> None:
    say(log, b"\x1b[31mred\x1b[0m\0\xff\xe2\x80\xae\t.\n")
    assert log.tail(1) == ["\\x1b[31mred\\x1b[0m\\x00\N{REPLACEMENT CHARACTER}\\u202e\\t."]
    say(log, bytes(range(256)) * 20)
    assert all(line.isprintable() and len(line) <= LINE_CHARS + 2 for line in log.tail(50))


def test_characters_of_several_bytes_are_cut_between_two(log: ChildLog) -> None:
    say(log, "ä".encode() * 5_000 + b"\n")
    (line,) = log.tail(1)
    assert len(line) <= LINE_CHARS + 2
    assert set(line) <= {"ä", CUT, "\N{REPLACEMENT CHARACTER}"}


def test_a_new_child_begins_with_a_line_of_its_own(log: ChildLog) -> None:
    log.begin("1 has started")
    say(log, b"half a li")
    log.note("1 has ended\nwith a forged line")
    log.begin("2 has started")
    say(log, b"hello\n")
    first, half, ended, second, hello = log.tail(9)
    assert first.endswith("Z] 1 has started")
    assert half == "half a li"
    assert ended.endswith("Z] 1 has ended\\nwith a forged line")
    assert second.endswith("Z] 2 has started")
    assert hello == "hello"


def test_the_last_words_are_the_running_child_s_own(log: ChildLog) -> None:
    log.begin("1 has started")
    say(log, b"failed\n")
    assert log.last_words(3) == ["failed"]
    log.begin("2 has started")
    assert log.last_words(3) == []
    say(log, b"x" * 100_000 + b"\none\ntwo\n")
    assert log.last_words(2) == ["one", "two"]
    assert log.last_words(9)[0].startswith(CUT)


def test_a_file_that_was_moved_away_is_made_anew_for_the_next_child(log: ChildLog) -> None:
    say(log, b"old\n")
    log.path.rename(log.path.with_name("kept"))
    log.begin("2 has started")
    assert len(log.tail(9)) == 1


def test_what_is_there_already_is_added_to(log: ChildLog) -> None:
    say(log, b"one\n")
    log.close()
    again = ChildLog(log.path.parent, "tiny", limit_bytes=10_000)
    say(again, b"two\n")
    assert again.tail(5) == ["one", "two"]


def test_a_link_in_its_place_is_not_followed(
    log: ChildLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "target"
    target.write_text("precious\n")
    log.path.parent.mkdir()
    log.path.symlink_to(target)
    say(log, b"said\n")
    assert target.read_text() == "precious\n"
    assert log.tail(5) == ["said"]  # from memory
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_nor_is_anything_else_that_is_no_file_written_to(
    log: ChildLog, make: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(make)
    log.path.parent.mkdir()
    make(log.path)
    say(log, b"said\n")
    assert log.tail(5) == ["said"]
    assert "cannot be written" in caplog.text


def test_the_last_words_wait_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ChildLog(tmp_path, "tiny")
    begun, go_on = threading.Event(), threading.Event()

    def slow(fd: int, data: memoryview) -> int:
        begun.set()
        go_on.wait(10)
        return len(data)

    monkeypatch.setattr(child_log.os, "write", slow)  # type: ignore[attr-defined]
    writing = threading.Thread(target=say, args=(log, b"no memory\n"))
    writing.start()
    assert begun.wait(10)
    assert log.last_words(1) == ["no memory"]
    go_on.set()
    writing.join()


def test_a_place_that_cannot_be_written_is_told_once_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(child_log, "RETRY_S", 0.0)
    folder = tmp_path / "logs"
    folder.write_text("a file")
    log = ChildLog(folder, "tiny")
    for _ in range(3):
        say(log, b"lost\n")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert log.last_words(1) == ["lost"]
    folder.unlink()
    say(log, b"kept\n")
    assert log.tail(5) == ["kept"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
