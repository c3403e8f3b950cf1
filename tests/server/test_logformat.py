"""What a line looks like, and that nothing a client sends can forge one."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.server.logformat import AccessLine, Format, escaped, formatter, lines_formatter

NASTY = "a\nb\x1b[31m\r\u202e\x9b\x00\ud800é"


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("rolemesh.x", logging.WARNING, "", 0, message, None, None)
    made.created = 1764000000.125
    vars(made).update(extra)
    return made


def test_time_is_iso_8601_in_utc_with_milliseconds():
    line = json.loads(formatter(Format.JSON)(record("m")))
    assert line == {
        "time": "2025-11-24T16:00:00.125Z",
        "level": "warning",
        "logger": "x",
        "message": "m",
    }


def test_the_console_line_escapes_what_could_drive_a_terminal():
    line = formatter(Format.CONSOLE)(record(NASTY)).decode()
    assert line == (
        "2025-11-24T16:00:00.125Z warning x: "
        "a\\nb\\x1b[31m\\r\\u202e\\x9b\\x00\\ud800é\n"
    )  # fmt: skip


@pytest.mark.parametrize("form", list(Format))
def test_the_access_line_escapes_every_field(form: Format):
    line = AccessLine(
        request_id=NASTY, method=NASTY, path=NASTY, status=400, model=NASTY, caller=NASTY
    )
    text = lines_formatter(form)([line, line])
    assert text.count(b"\n") == 2
    assert text.decode().replace("\n", "").isprintable()


@pytest.mark.parametrize("form", list(Format))
def test_an_exception_is_shown_and_cannot_forge_a_line(form: Format):
    try:
        raise ValueError("one\n2025-01-01T00:00:00.000Z info forged")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    lines = formatter(form)(made).decode().splitlines()
    assert "ValueError" in "".join(lines)
    assert not any(line.startswith("2025-01-01") for line in lines)


@given(st.text())
def test_escaped_text_is_printable_and_printable_text_stays(text: str):
    assert escaped(text).isprintable()
    assert not text.isprintable() or escaped(text) == text


@given(st.text(), st.text())
def test_every_line_is_one_line_of_valid_json(message: str, value: str):
    text = formatter(Format.JSON)(record(message, value=value))
    assert text.count(b"\n") == 1
    assert json.loads(text)["value"] == value
