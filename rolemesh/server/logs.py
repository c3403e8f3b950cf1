"""Standard library logging to stderr that never makes the event loop wait.

`setup` puts one handler on the root logger. What is logged goes into a bounded queue; a thread
formats and writes it, some milliseconds later and many lines at once. Where stderr is a pipe that
nobody reads or a full disk, lines are dropped and counted, and the count is logged as soon as
writing works again. Text that may come from a client is always escaped (`logformat`).
"""

from __future__ import annotations

import atexit
import collections
import logging
import os
import select
import threading
import time
from collections.abc import Iterator

from rolemesh.server.logformat import AccessLine, Clock, Format, formatter, lines_formatter

QUEUE_LINES = 10_000
# Lines that come within this time are formatted and written together: one wake-up, one write.
GATHER_S = 0.02
BATCH_BYTES = 65_536
LINES_AT_ONCE = 100
FLUSH_S = 1.0


def setup(level: str, form: str | None, fd: int = 2) -> LogWriter:
    """Log to `fd` from now on. `form` None: for people on a terminal, else JSON.

    Called once per process; `LogWriter.change` does the rest at a reload.
    """
    # Nobody reads them, and each costs a look-up per record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # A handler's own failure must not be printed to the very stream that fails.
    logging.raiseExceptions = False
    writer = LogWriter(fd)
    writer.change(level, form)
    root = logging.getLogger()
    root.handlers[:] = [writer]
    atexit.register(writer.close)
    return writer


class LogWriter(logging.Handler):
    """The queue and its thread."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self._fd = fd
        self._clock = Clock()  # the thread has another one
        self._format = formatter(Format.JSON)
        self._format_lines = lines_formatter(Format.JSON)
        self._queue: collections.deque[logging.LogRecord | AccessLine] = collections.deque()
        self._overflowed = 0  # lines for which the queue had no room
        self._unwritten = 0  # lines that stderr did not take
        self._told = 0  # of both, how many a line has already told of
        self._broken_line = False
        self._wanted = threading.Event()
        self._written = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost since the process began."""
        return self._overflowed + self._unwritten

    def change(self, level: str, form: str | None) -> None:
        """`level` as in the configuration: debug, info, warning, error."""
        if form is None:
            form = "console" if _is_terminal(self._fd) else "json"
        self._format = formatter(Format(form))
        self._format_lines = lines_formatter(Format(form))
        self.setLevel(level.upper())
        logging.getLogger().setLevel(level.upper())

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock of logging.Handler: a deque's append needs none."""
        if record.args:
            # Now, not in the thread: the arguments may have changed by then.
            record.msg, record.args = record.getMessage(), None
        self.put(record)
        return True

    def access(self, line: AccessLine) -> None:
        """One line for one request, at level info. Cheap: formatting is the thread's."""
        if self.level <= logging.INFO:
            line.time = self._clock.text(time.time())
            self.put(line)

    def put(self, line: logging.LogRecord | AccessLine) -> None:
        if len(self._queue) >= QUEUE_LINES:
            self._overflowed += 1
            return
        self._queue.append(line)
        if not self._wanted.is_set():
            self._wanted.set()

    def flush(self) -> None:
        """Wait until everything is written, at most FLUSH_S. Not for the event loop."""
        deadline = time.monotonic() + FLUSH_S
        while self._queue and not self._closing.is_set() and time.monotonic() < deadline:
            self._written.clear()
            self._wanted.set()
            self._written.wait(GATHER_S)

    def close(self) -> None:
        """Write what is left, within FLUSH_S, and end the thread. A thread that hangs in a write
        is left behind: it is a daemon thread."""
        if self._closing.is_set():
            return
        atexit.unregister(self.close)
        logging.getLogger().removeHandler(self)
        self._closing.set()
        self._wanted.set()
        self._thread.join(FLUSH_S)
        super().close()

    def _run(self) -> None:
        while not (self._closing.is_set() and not self._queue):
            self._wanted.wait()
            if not self._closing.wait(GATHER_S):
                self._wanted.clear()
            while self._queue:
                self._write(self._next_batch())
            self._written.set()

    def _next_batch(self) -> bytes:
        batch: list[bytes] = []
        size = 0
        while self._queue and size < BATCH_BYTES:
            text = self._formatted(self._queue.popleft())
            batch.append(text)
            size += len(text)
        return b"".join(batch)

    def _formatted(self, line: logging.LogRecord | AccessLine) -> bytes:
        try:
            if isinstance(line, AccessLine):
                return self._format_lines([line, *self._access_lines_behind()])
            return self._format(line)
        except Exception as error:  # noqa: BLE001 - the border of this thread: no line may end it
            kind = type(error).__name__.encode()
            return b'{"level":"error","message":"a log line could not be made: %s"}\n' % kind

    def _access_lines_behind(self) -> Iterator[AccessLine]:
        """Those that stand next in the queue."""
        for _ in range(LINES_AT_ONCE):
            if not self._queue or not isinstance(line := self._queue[0], AccessLine):
                return
            self._queue.popleft()
            yield line

    def _write(self, batch: bytes) -> None:
        telling = self.dropped
        head = self._loss(telling - self._told) if telling > self._told else b""
        if self._broken_line:
            head = b"\n" + head
        data = head + batch
        written = self._write_all(data)
        if written == len(data):
            self._told = telling
            self._broken_line = False
            return
        whole = data.count(b"\n", len(head), max(written, len(head)))
        self._unwritten += max(batch.count(b"\n") - whole, 0)
        if written:
            self._broken_line = data[written - 1 : written] != b"\n"

    def _write_all(self, data: bytes) -> int:
        """How much of it stderr took. Blocks this thread while a pipe is full."""
        view = memoryview(data)
        written = 0
        while written < len(data):
            try:
                written += os.write(self._fd, view[written:])
            except BlockingIOError:
                # Another process that shares stderr has made it non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(1000)
            except OSError:
                break
        return written

    def _loss(self, count: int) -> bytes:
        message = f"{count} log lines dropped: stderr could not take them"
        name, level = "rolemesh.logs", logging.WARNING
        return self._formatted(logging.LogRecord(name, level, "", 0, message, None, None))


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False
