"""An upstream that fails on demand: `python -m benchmarks.soak.upstream`.

Does what `upstream` does, unless the prompt names a fault: then the answer breaks in that place.
"""

from __future__ import annotations

import asyncio
import enum
import re

import uvloop
from attrs import frozen

from benchmarks.script import Script
from benchmarks.upstream import BACKLOG, Upstream, writes

EVENTS_BEFORE = 2  # of a stream that breaks: so many come whole
BROKEN_STREAM = Script(answer_bytes=230, events=20, gap_ms=1)
_WHOLE = writes(Script(answer_bytes=920))[0]
_EVENTS = writes(BROKEN_STREAM)
_BEGUN = b"".join(_EVENTS[:EVENTS_BEFORE])
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


class Fault(enum.Enum):
    SILENT = "silent"
    NO_ANSWER = "no-answer"
    RESET = "reset"
    HALF_HEAD = "half-head"
    NO_HTTP = "no-http"
    HALF_BODY = "half-body"
    CUT_STREAM = "cut-stream"
    MID_CHUNK = "mid-chunk"
    STALLED_STREAM = "stalled-stream"
    BUSY = "busy"

    @property
    def text(self) -> str:
        """For the prompt."""
        return f"fault={self.value};"


class End(enum.Enum):
    CLOSE = "close"
    ABORT = "abort"
    STAY = "stay"


@frozen
class Break:
    """What is sent of an answer, and what then happens to the connection."""

    sent: bytes
    end: End


BREAKS = {
    Fault.SILENT: Break(b"", End.STAY),
    Fault.NO_ANSWER: Break(b"", End.CLOSE),
    Fault.RESET: Break(b"", End.ABORT),
    Fault.HALF_HEAD: Break(_WHOLE[:30], End.CLOSE),
    Fault.NO_HTTP: Break(b"SSH-2.0-OpenSSH_9.2\r\n", End.CLOSE),
    Fault.HALF_BODY: Break(_WHOLE[:-400], End.CLOSE),
    Fault.CUT_STREAM: Break(_BEGUN, End.CLOSE),
    Fault.MID_CHUNK: Break(_BEGUN + _EVENTS[EVENTS_BEFORE][:100], End.CLOSE),
    Fault.STALLED_STREAM: Break(_BEGUN, End.STAY),
    Fault.BUSY: Break(_BUSY, End.STAY),
}
_FAULT = re.compile(rb"fault=([a-z-]+);")


class FaultyUpstream(Upstream):
    def _answer(self, request: bytes) -> None:
        found = _FAULT.search(request)
        if found is None:
            super()._answer(request)
            return
        broken = BREAKS[Fault(found[1].decode())]
        if broken.sent:
            self._transport.write(broken.sent)
        if broken.end is End.CLOSE:
            self._transport.close()
        elif broken.end is End.ABORT:
            self._transport.abort()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    make = lambda: FaultyUpstream(loop)  # noqa: E731
    server = await loop.create_server(make, "127.0.0.1", 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
