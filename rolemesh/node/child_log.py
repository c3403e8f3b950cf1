"""The log file of one model: what its llama-servers say, one after the other, bounded in size.

Written by the thread that reads a child's output (`child_output`), and read by `/log?tail=`. The
bytes are kept as they came (no line structure is relied on); they are made printable when they are
read. What cannot be written (a full disk) is thrown away and told once: a child is never held up by
its log. The last words of the running child are kept in memory besides: the reason for its failure
must not depend on the disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from pathlib import Path
from urllib.parse import quote

from rolemesh.server.logformat import escaped

log = logging.getLogger("rolemesh.node.child_log")

LIMIT_BYTES = 4 * 2**20
MAX_LINES = 1_000
LINE_CHARS = 2_000
# After a write that failed.
RETRY_S = 5.0
# How much of a file is read for one line, at most: room for LINE_CHARS characters.
_LINE_BYTES = 2_048
_REMEMBERED_BYTES = 16 * 2**10
_LONGEST_NAME = 180


def file_name(model_id: str) -> str:
    """A file's name that no other model_id has, whatever characters are in it."""
    name = quote(model_id, safe="", errors="surrogatepass")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(model_id.encode("utf-8", "surrogatepass")).hexdigest()
        name = f"{name[:_LONGEST_NAME]}-{digest[:16]}"
    return f"{name}.log"


class ChildLog:
    """`path`, and beside it `<path>.1`, the one before it. Every method may be called in any
    thread, and all but `last_words` may wait for the disk."""

    def __init__(
        self, log_dir: str | os.PathLike[str], model_id: str, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self.model_id = model_id
        self.path = Path(log_dir) / file_name(model_id)
        self._old = self.path.with_name(f"{self.path.name}.1")
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._size = 0
        self._line_begun = False
        self._retry_at: float | None = None
        self._remembered = bytearray()
        self._memory = threading.Lock()  # its own: no disk is waited for under it

    def begin(self, text: str) -> None:
        """A new child: its last words are its own. Whoever removed or moved the file gets a new
        one."""
        with self._lock:
            self._close()
        with self._memory:
            self._remembered.clear()
        self.note(text)

    def note(self, text: str) -> None:
        """A line of the node's own between the child's."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"[rolemesh {at}] {escaped(text)[:LINE_CHARS]}\n".encode()
        with self._lock:
            self._write(b"\n" + line if self._line_begun else line)

    def write(self, data: memoryview) -> None:
        """What the child said. Never raises OSError."""
        with self._memory:
            self._remembered += data[-_REMEMBERED_BYTES:]
            del self._remembered[:-_REMEMBERED_BYTES]
        with self._lock:
            self._write(data)

    def last_words(self, count: int) -> list[str]:
        """The last lines of the child that runs, or ran last; from memory."""
        with self._memory:
            data = bytes(self._remembered)
        return _lines(data, count, whole=len(data) < _REMEMBERED_BYTES)

    def tail(self, count: int) -> list[str]:
        """The last `count` lines of the file (of MAX_LINES at most), printable, each cut at
        LINE_CHARS; fewer where they are very long."""
        count = min(count, MAX_LINES)
        wanted = count * _LINE_BYTES
        try:
            with self._lock:
                files = [_open(path, os.O_RDONLY) for path in self._paths()]
            data, whole = _ends(files, wanted)
        except OSError:
            return self.last_words(count)
        return _lines(data, count, whole=whole)

    def close(self) -> None:
        """The file; what is written later opens it again."""
        with self._lock:
            self._close()

    # Inside, under the lock

    def _paths(self) -> list[Path]:
        return [path for path in (self._old, self.path) if path == self.path or path.exists()]

    def _write(self, data: bytes | memoryview) -> None:
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return
        try:
            self._write_out(data)
        except OSError as error:
            self._failed(error)
            return
        self._line_begun = data[-1:] != b"\n"
        if self._retry_at is not None:
            self._retry_at = None
            log.info("the log of %s is written again", self.model_id)

    def _write_out(self, data: bytes | memoryview) -> None:
        if self._fd is None:
            self._open_file()
        if self._size >= self._limit_bytes:
            self._rotate()
        while data and self._fd is not None:
            written = os.write(self._fd, data)
            self._size += written
            data = data[written:]

    def _open_file(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = _open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.fchmod(self._fd, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self._close()
        self.path.replace(self._old)
        self._open_file()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _failed(self, error: OSError) -> None:
        """Told once, until a write succeeds."""
        self._close()
        if self._retry_at is None:
            log.warning("the log of %s, %s, cannot be written (%s): what the child says is thrown"
                        " away until it can be", self.model_id, self.path,
                        error.strerror)  # fmt: skip
        self._retry_at = time.monotonic() + RETRY_S


def _open(path: Path, flags: int) -> int:
    """A regular file, never what a link in its place leads to. Opening a pipe must not hang."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(0, "it is not a regular file")


def _ends(files: list[int], wanted: int) -> tuple[bytes, bool]:
    """The last `wanted` bytes of the files together, and whether that is all that there is."""
    data = b""
    whole = True
    for fd in reversed(files):
        with open(fd, "rb", buffering=0) as file:
            size = os.fstat(fd).st_size
            skipped = max(0, size - (wanted - len(data)))
            data = os.pread(file.fileno(), size - skipped, skipped) + data
            whole = whole and not skipped
    return data, whole


def _lines(data: bytes, count: int, *, whole: bool) -> list[str]:
    """`whole`: the data begins with a line's beginning."""
    if count <= 0 or not data:
        return []
    lines = data.removesuffix(b"\n").rsplit(b"\n", count)
    if len(lines) > count:
        return [_printable(line) for line in lines[1:]]
    first, *rest = (_printable(line) for line in lines)
    return [first if whole else f"\N{HORIZONTAL ELLIPSIS}{first}", *rest]


def _printable(line: bytes) -> str:
    # Cut before it is escaped, too: a line may be megabytes of control characters.
    text = line.removesuffix(b"\r")[: 4 * LINE_CHARS].decode("utf-8", "replace")
    text = escaped(text[: LINE_CHARS + 1])
    return text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}\N{HORIZONTAL ELLIPSIS}"
