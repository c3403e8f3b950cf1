"""Reads one child's output in a thread of its own, and writes it to the model's log.

Off the event loop, because a disk may be slow. The pipe holds a megabyte, so that a burst never
holds a child up; a child that floods is read at a bounded pace (13 MB/s), which costs the node a
few hundredths of a core, and its log no more than `child_log` allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
import time

from rolemesh.node.child_log import ChildLog

PIPE_BYTES = 2**20
_CHUNK_BYTES = 128 * 2**10
_PAUSE_S = 0.01


def pipe() -> tuple[int, int]:
    """Reading and writing end."""
    read, write = os.pipe()
    with contextlib.suppress(OSError):  # beyond what this user may have: the usual 64 KiB
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read, write


class ChildOutput:
    """`last_at`: when the last byte came, in the loop's time (at first: when it began). `ended` is
    set when nobody holds the other end any more and everything has been written."""

    def __init__(self, fd: int, log: ChildLog) -> None:
        self.last_at = time.monotonic()
        self.ended = asyncio.Event()
        self._fd = fd
        self._log = log
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Takes the descriptor over. Raises RuntimeError when there can be no thread."""
        # A daemon: nobody can make it end while a process that escaped keeps the other end.
        threading.Thread(target=self._run, name="node: child output", daemon=True).start()

    def _run(self) -> None:
        view = memoryview(bytearray(_CHUNK_BYTES))
        with open(self._fd, "rb", buffering=0) as file:
            while size := file.readinto(view):
                self.last_at = time.monotonic()
                self._log.write(view[:size])
                # Whoever writes now and then waits for none of this; a flood is slowed by it.
                time.sleep(_PAUSE_S)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self.ended.set)
