"""The log writer against real pipes, full and empty, and /dev/full."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rolemesh.server import logs
from rolemesh.server.logformat import AccessLine
from rolemesh.server.logs import setup

LINE = AccessLine(
    level="info",
    logger="access",
    message="request",
    request_id="req-1",
    method="POST",
    path="/v1/chat/completions",
    status=200,
    outcome="ok",
    duration_s=0.25,
    alias="writer",
)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level, logging.raiseExceptions
    flags = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    yield logger
    logger.handlers[:], logger.level, logging.raiseExceptions = before
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = flags


def test_lines_come_out_in_order_as_json(root: logging.Logger):
    reader, writer = os.pipe()
    handler = setup("info", "json", writer)
    for number in range(3):
        logging.getLogger("rolemesh.test").info("line %d", number, extra={"alias": "writer"})
    logging.getLogger("rolemesh.test").debug("not this one")
    handler.access(LINE)
    handler.close()
    os.close(writer)
    with open(reader, "rb") as file:
        lines = [json.loads(line) for line in file]
    assert [line["message"] for line in lines] == ["line 0", "line 1", "line 2", "request"]
    assert lines[0]["logger"] == "test"
    assert lines[0]["alias"] == "writer"
    assert lines[3]["request_id"] == "req-1"
    assert lines[3]["outcome"] == "ok"
    assert lines[3]["duration_s"] == 0.25


def test_a_pipe_that_nobody_reads_never_blocks_the_caller(root: logging.Logger):
    reader, writer = os.pipe()
    handler = setup("info", "json", writer)
    began = time.monotonic()
    count = logs.QUEUE_LINES + 5_000
    for _ in range(count):
        logging.getLogger("rolemesh.test").info("x" * 100)
    assert time.monotonic() - began < 2
    assert handler.dropped > 0
    logging.getLogger("rolemesh.test").info("the last, dropped too")
    text = b""
    while b"log lines dropped" not in text:
        text += os.read(reader, 65536)
        logging.getLogger("rolemesh.test").info("more")
    handler.close()
    os.close(writer)
    os.close(reader)


def test_closing_with_a_full_pipe_takes_about_a_second_at_most(root: logging.Logger):
    reader, writer = os.pipe()
    handler = setup("info", "json", writer)
    for _ in range(2000):
        logging.getLogger("rolemesh.test").info("x" * 100)
    began = time.monotonic()
    handler.close()
    assert time.monotonic() - began < logs.FLUSH_S + 1
    os.close(reader)  # the thread's write ends with EPIPE
    handler._thread.join(5)
    assert not handler._thread.is_alive()
    os.close(writer)


def test_a_full_disk_drops_lines_and_counts_them(root: logging.Logger):
    full = os.open("/dev/full", os.O_WRONLY)
    handler = setup("info", "json", full)
    for _ in range(10):
        logging.getLogger("rolemesh.test").info("lost")
    handler.flush()
    handler.close()
    os.close(full)
    assert handler.dropped == 10


def test_a_process_whose_stderr_is_full_ends_in_time_and_with_its_own_exit_code():
    code = (
        "import logging\n"
        "from rolemesh.server.logs import setup\n"
        "setup('info', None)\n"
        "for _ in range(50000): logging.getLogger('rolemesh').info('x' * 200)\n"
        "raise SystemExit(7)\n"
    )
    reader, writer = os.pipe()
    done = subprocess.run([sys.executable, "-c", code], stderr=writer, timeout=20)
    os.close(reader)
    os.close(writer)
    assert done.returncode == 7


def test_a_line_that_cannot_be_made_does_not_end_the_log(root: logging.Logger, tmp_path: Path):
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    handler = setup("info", "json", fd)
    logging.getLogger("rolemesh.test").info("odd", extra={"value": Odd()})
    logging.getLogger("rolemesh.test").info("after it")
    handler.close()
    os.close(fd)
    messages = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    assert messages == ["a log line could not be made: RuntimeError", "after it"]


def test_the_level_can_change_while_it_runs(root: logging.Logger, tmp_path: Path):
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    handler = setup("warning", "json", fd)
    handler.access(LINE)
    handler.change("debug", "console")
    handler.access(LINE)
    handler.close()
    os.close(fd)
    assert path.read_text().count("\n") == 1
    assert "POST /v1/chat/completions 200 ok request_id=req-1" in path.read_text()
