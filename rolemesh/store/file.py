"""One JSON file that outlives the process: read at start, replaced as a whole when things change.

Fed by a daemon with snapshots of what it must remember. Written in a thread, atomically, at most
once a second, readable by its owner only (it holds tokens), and locked against a second process.
Nothing that is wrong with the file is fatal, but for that lock: a bad one is set aside with a
warning, and where nothing can be written the daemon runs on and forgets at its end. What stands in
the file's place and is no regular file (a directory, a device) is a mistake in the configuration:
it is told at the start, and neither renamed nor replaced, ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rolemesh.errors import RunError

log = logging.getLogger("rolemesh.store")

Snapshot = Callable[[], Mapping[str, Any]]

FORMAT = 1
WRITE_EVERY_S = 1.0
# After a write that failed; a full disk may have room again.
RETRY_S = 30.0
CLOSE_S = 5.0
MAX_BYTES = 256 * 2**20

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link that is not followed",
}


class _Envelope(msgspec.Struct):
    """`written_at`: Unix time. No monotonic instant outlives its process."""

    format: int
    written_at: float
    data: dict[str, Any]


class StateFile:
    """Order of calls: `open`, `read`, then `schedule` any number of times, `close`.

    `age_s` says after `read` how long ago the file was written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # The real path: replacing a symbolic link would leave its target behind.
        self.path = Path(os.path.realpath(path))
        self.age_s = 0.0
        self._lock: int | None = None
        self._snapshot: Snapshot | None = None
        self._writing: asyncio.Task[None] | None = None
        self._warned = False
        # A write that was given up (`close`) may still be running in its thread.
        self._one_at_a_time = threading.Lock()

    def open(self) -> None:
        """Make the directory and take the lock. Raises RunError when another process has it, or
        when something else than a regular file is in the file's place."""
        found = _not_a_file(self.path)
        if found is not None:
            raise RunError(
                f"the state file {self.path} cannot be used: there is {found}, and only a regular"
                " file would be replaced. Set state_path to the path of a file"
            )
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES) and self._lock is not None:
                self._unlock()
                raise RunError(
                    f"the state file {self.path} is in use by another process: stop that one, or"
                    " give this one a state_path of its own"
                ) from error
            log.warning("%s cannot be locked (%s): what it would hold may be lost at the next"
                        " start", self.path, error.strerror)  # fmt: skip

    def read(self) -> dict[str, Any] | None:
        """What was last written. None: nothing, or nothing that can be used."""
        try:
            data = self._read()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the state file %s cannot be read: %s", self.path, error.strerror)
            return None
        try:
            envelope = msgspec.json.decode(data, type=_Envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.set_aside("it is not what was written")
            return None
        if envelope.format != FORMAT:
            self.set_aside(f"its format is {envelope.format}, not {FORMAT}")
            return None
        self.age_s = max(0.0, time.time() - envelope.written_at)
        return envelope.data

    def set_aside(self, reason: str) -> None:
        """Rename the file, so that it can be looked at and nothing is written over it."""
        aside = self.path.with_name(f"{self.path.name}.corrupt")
        try:
            _only_a_file(self.path)
            _only_a_file(aside)
            self.path.replace(aside)
        except OSError as error:
            log.warning("the state file %s is left unused (%s) and stays where it is: %s",
                        self.path, reason, error.strerror)  # fmt: skip
        else:
            log.warning("the state file %s is left unused (%s); it is now %s",
                        self.path, reason, aside)  # fmt: skip

    def schedule(self, snapshot: Snapshot) -> None:
        """Something changed. `snapshot` is called in the event loop, within a second; of several
        scheduled meanwhile, the last one. Never waits, never raises."""
        self._snapshot = snapshot
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_on(), name="store: write")

    async def write(self, snapshot: Snapshot) -> None:
        """At once, and returns when it is on the disk. What cannot be written is due, as if it had
        been scheduled. One call at a time: who comes second must not write first."""
        self._snapshot = snapshot
        if not await self._write_now():
            self.schedule(snapshot)

    async def close(self, snapshot: Snapshot | None = None) -> None:
        """Write what is due (or `snapshot`, if given, in any case), bounded, and free the lock."""
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing
        self._snapshot = snapshot or self._snapshot
        if self._snapshot is not None:
            try:
                await asyncio.wait_for(self._write_now(), CLOSE_S)
            except TimeoutError:
                log.warning("the state file %s could not be written in time", self.path)
        self._unlock()

    async def _write_on(self) -> None:
        while self._snapshot is not None:
            written = await self._write_now()
            await asyncio.sleep(WRITE_EVERY_S if written else RETRY_S)

    async def _write_now(self) -> bool:
        """Whether it was written. What could not be written stays due."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return True
        try:
            envelope = _Envelope(FORMAT, time.time(), dict(snapshot()))
            await asyncio.to_thread(self._replace, envelope)
        except asyncio.CancelledError:
            self._still_due(snapshot)
            raise
        except OSError as error:
            self._still_due(snapshot)
            self._warn(error)
            return False
        self._warned = False
        return True

    def _still_due(self, snapshot: Snapshot) -> None:
        if self._snapshot is None:  # nothing newer came meanwhile
            self._snapshot = snapshot

    def _warn(self, error: OSError) -> None:
        """Once, until a write succeeds: a full disk would otherwise fill the log, too."""
        if not self._warned:
            self._warned = True
            log.warning("the state file %s cannot be written (%s): what it would hold will be"
                        " lost at the next start", self.path, error.strerror)  # fmt: skip

    def _read(self) -> bytes:
        _only_a_file(self.path)
        if self.path.stat().st_size > MAX_BYTES:
            return b""
        return self.path.read_bytes()

    def _replace(self, envelope: _Envelope) -> None:
        """In a thread. After a crash at any point the old file or the new one is there, whole."""
        with self._one_at_a_time:
            self._replace_alone(envelope)

    def _replace_alone(self, envelope: _Envelope) -> None:
        temporary = self.path.with_name(f"{self.path.name}.new")
        _only_a_file(self.path)
        _only_a_file(temporary)  # opening a pipe that nobody reads would hang
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.encode(envelope))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _not_a_file(path: Path) -> str | None:
    """What is there instead of a regular file. None: one, or nothing, or nothing that can be
    seen."""
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except OSError:
        return None
    return None if kind == stat.S_IFREG else _KINDS.get(kind, "something else")


def _only_a_file(path: Path) -> None:
    """Raises OSError for what must not be opened, renamed or replaced."""
    found = _not_a_file(path)
    if found is not None:
        raise OSError(errno.EINVAL, f"{path.name} is {found}")
