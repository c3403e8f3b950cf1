"""A gateway that counts the function calls it makes: `python -m benchmarks.counted gateway ...`.

Calls of Python functions, and calls that those make of functions written in C, in the thread of the
event loop. Whoever connects to the port that `PORT` names in the environment is told the number so
far. Told what to do by `calls`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from types import FrameType

from rolemesh.cli import main

PORT = "BENCHMARKS_COUNTED_PORT"


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


def _tell(counter: Counter, listener: socket.socket) -> None:
    while True:
        with listener.accept()[0] as asker:
            asker.sendall(b"%d" % counter.calls)


if __name__ == "__main__":
    counter = Counter()
    listener = socket.create_server(("127.0.0.1", int(os.environ[PORT])))
    threading.Thread(target=_tell, args=(counter, listener), daemon=True).start()
    sys.setprofile(counter)
    sys.exit(main())
