"""Tells systemd (or whoever set NOTIFY_SOCKET) how the process is: sd_notify(3), in Python.

Fed by `life`. A message is one datagram; it is sent without waiting, and what cannot be sent is
dropped: a supervisor that does not listen must never stop or slow the process it supervises.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from attrs import field, frozen


@frozen
class Notifier:
    """`address` None: nobody asked to be told. `watchdog_s`: the time between two signs of life
    that the supervisor waits for at most; None: it does not watch."""

    address: str | bytes | None = None
    watchdog_s: float | None = None
    _socket: socket.socket | None = field(default=None, repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Notifier:
        name = env.get("NOTIFY_SOCKET", "")
        if not name.startswith(("/", "@")):
            return cls()
        try:
            sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except OSError:
            return cls()
        sender.setblocking(False)
        # A leading "@" stands for the zero byte that abstract names begin with.
        address = b"\0" + os.fsencode(name[1:]) if name.startswith("@") else name
        return cls(address, _watchdog_s(env), sender)

    def send(self, *lines: str) -> None:
        """One message, `NAME=value` each. Newlines inside a value would start another line."""
        if self._socket is None or self.address is None:
            return
        message = "\n".join(" ".join(line.splitlines()) for line in lines)
        try:
            self._socket.sendto(message.encode(errors="replace"), self.address)
        except OSError:
            return  # full, gone or forbidden: see the module's docstring

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=Reloading")

    def stopping(self, status: str) -> None:
        self.send("STOPPING=1", f"STATUS={status}")

    def alive(self, status: str) -> None:
        """The watchdog's sign of life. Call it from the loop that must turn, from nowhere else."""
        self.send("WATCHDOG=1", f"STATUS={status}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _watchdog_s(env: Mapping[str, str]) -> float | None:
    """WATCHDOG_USEC, unless WATCHDOG_PID says that another process is meant."""
    if env.get("WATCHDOG_PID", "") not in ("", str(os.getpid())):
        return None
    text = env.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        return None
    return int(text) / 1_000_000
