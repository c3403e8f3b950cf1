"""How a log record looks: one JSON object a line for machines, one readable line for people.

Called by the log writer's thread alone. Whatever a client may have sent (a model's name, a path, an
exception's text) is escaped: no line can be forged and no terminal be driven by it.
"""

from __future__ import annotations

import enum
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

Formatter = Callable[[logging.LogRecord], bytes]
LinesFormatter = Callable[[Sequence["AccessLine"]], bytes]


class Format(enum.Enum):
    JSON = "json"
    CONSOLE = "console"


class AccessLine(msgspec.Struct, omit_defaults=True):
    """What one request came to, in the order in which it is told. `time` is set by `logs`.
    `outcome`: ok, client_abort, upstream_error, truncated, rejected.

    Seconds and bytes; None: does not apply. `path` has no query string. `failed`: a backend and
    the reason's word for each attempt that came to nothing.
    """

    time: str = ""
    level: str = ""
    logger: str = ""
    message: str = ""
    request_id: str = ""
    method: str = ""
    path: str = ""
    status: int = -1
    outcome: str = ""
    duration_s: float = -1.0
    caller: str | None = None
    alias: str | None = None
    backend: str | None = None
    model: str | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    first_byte_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int | None = None
    failed: list[str] | None = None
    code: str | None = None
    peer: str | None = None


def formatter(form: Format) -> Formatter:
    return _json if form is Format.JSON else _console


def lines_formatter(form: Format) -> LinesFormatter:
    """Of access lines there may be thousands a second: they are formatted many at once."""
    return _json_lines if form is Format.JSON else _console_lines


def escaped(text: str) -> str:
    """Printable text, whatever comes in: control characters, line ends, terminal sequences,
    direction marks and lone surrogates become backslash escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if short is not None:
        return short
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Clock:
    """ISO 8601 in UTC with milliseconds, made once for each; what is before them, once a second."""

    def __init__(self) -> None:
        self._second = self._ms = -1
        self._prefix = self._text = ""

    def text(self, at: float) -> str:
        ms = int(at * 1000)
        if ms != self._ms:
            self._ms = ms
            second, part = divmod(ms, 1000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._text = f"{self._prefix}.{part:03d}Z"
        return self._text


_clock = Clock()
_encoder = msgspec.json.Encoder()
_TOLD_FIRST = frozenset(
    {"time", "level", "logger", "message", "method", "path", "status", "outcome"}
)
# Fields that every LogRecord has; any other came with `extra=`.
_OWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {
    "message", "asctime", "taskName",
}  # fmt: skip


def _json(record: logging.LogRecord) -> bytes:
    fields = {
        "time": _clock.text(record.created),
        "level": record.levelname.lower(),
        "logger": _short(record.name),
        "message": record.getMessage(),
    }
    fields |= dict(_extra(record))
    if (trace := _trace(record)) is not None:
        fields["exception"] = trace
    # ASCII only: surrogates, direction marks and C1 controls are escaped by the encoder itself.
    return json.dumps(fields, default=str, separators=(",", ":")).encode() + b"\n"


def _json_lines(lines: Sequence[AccessLine]) -> bytes:
    """The encoder's own text where that is safe."""
    for line in lines:
        line.duration_s = round(line.duration_s, 6)
        if line.first_byte_s is not None:
            line.first_byte_s = round(line.first_byte_s, 6)
    try:
        text = _encoder.encode_lines(lines)
    except UnicodeEncodeError:
        text = b"\x7f"
    # Controls below 0x20 are escaped by the encoder; DEL and what is beyond ASCII are not.
    if not text.isascii() or b"\x7f" in text:
        text = _encoder.encode_lines([dict(_cleaned(line)) for line in lines])
    return text


def _cleaned(line: AccessLine) -> Iterator[tuple[str, Any]]:
    for name in line.__struct_fields__:
        value = getattr(line, name)
        if value is not None:
            yield name, escaped(value) if isinstance(value, str) else value


def _console_lines(lines: Sequence[AccessLine]) -> bytes:
    return "".join(map(_console_line, lines)).encode()


def _console_line(line: AccessLine) -> str:
    rest = [
        f"{name}={escaped(str(value))}"
        for name, value in _access_fields(line)
        if name not in _TOLD_FIRST
    ]
    what = f"{escaped(line.method)} {escaped(line.path)} {line.status} {line.outcome}"
    return f"{line.time} {line.level:<7} {' '.join([what, *rest])}\n"


def _console(record: logging.LogRecord) -> bytes:
    head = f"{_clock.text(record.created)} {record.levelname.lower():<7} "
    text = f"{head}{_short(record.name)}: {escaped(record.getMessage())}"
    for name, value in _extra(record):
        text += f" {name}={escaped(str(value))}"
    if (trace := _trace(record)) is not None:
        # Indented: a line that an exception's text tries to forge is seen to be part of it.
        text += "".join(f"\n    {escaped(part)}" for part in trace.splitlines())
    return f"{text}\n".encode()


def _access_fields(line: AccessLine) -> Iterator[tuple[str, Any]]:
    for name in line.__struct_fields__:
        value = getattr(line, name)
        if value is not None:
            yield name, round(value, 6) if isinstance(value, float) else value


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in vars(record).items() if name not in _OWN)


def _short(name: str) -> str:
    return name.removeprefix("rolemesh.")


def _trace(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[0] is None:
        return None
    return "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
