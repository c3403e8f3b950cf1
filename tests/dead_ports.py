"""Addresses at which no backend answers: one that refuses, and one that never says a word."""

from __future__ import annotations

import socket
import time


class RefusedPort:
    """An address at which every connection is refused, and that nobody else can take."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()


class SilentPort:
    """An address at which connections are neither accepted nor refused: its backlog is full."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(0)
        address = self._socket.getsockname()
        self.url = f"http://127.0.0.1:{address[1]}"
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.05)

    def close(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._socket.close()
