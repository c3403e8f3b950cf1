"""The nodes: a process, `python -m benchmarks.scaling.fleet JOB`; each has what a real one has.

An address of its own where it answers requests and probes (as `upstream` does), and a kept
connection to the gateway on which it registers and then sends heartbeats, prepared, at the interval
that it is asked for. Prints `ready` when all are registered; when it is ended, what came of it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import cast

import httptools
import msgspec
import uvloop
from attrs import define, field, frozen

from benchmarks.generator import CONNECT_AT_ONCE
from benchmarks.job import READY, note
from benchmarks.scaling.cluster import BEATS, NODE_KEY, Size, address, beat, registration
from benchmarks.upstream import BACKLOG, Upstream
from rolemesh.wire.registration import asked_interval

LEAST_SHARE = 0.95  # of the heartbeats that were due: the last few may be under way
REGISTER, HEARTBEAT = "/v1/nodes/register", "/v1/nodes/heartbeat"


@frozen
class Fleet:
    """What the process is told. `port`: the gateway's."""

    size: Size
    port: int


@define
class Heard:
    """What it tells: heartbeats that the gateway took, and what was no such answer."""

    beats: int = 0
    failed: int = 0
    errors: list[str] = field(factory=list)

    def fail(self, why: str) -> None:
        self.failed += 1
        note(self.errors, why)

    def expect(self, due: int) -> None:
        """Nodes that are silent cost nothing: then there is nothing to be told of."""
        if self.beats < LEAST_SHARE * due - 1:
            self.fail(f"{self.beats:,} heartbeats were taken, {due:,} were due")


class Node(asyncio.Protocol):
    """One node's connection to the gateway."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answered: asyncio.Future[bytes] | None = None

    def tell(self, message: bytes) -> asyncio.Future[bytes]:
        """The answer's body."""
        if self._answered is not None and not self._answered.done():
            self._heard.fail("a message is due before the last one is answered")
        self._body = b""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return self._answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard.fail("the gateway closed a node's connection")

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 200:
            self._heard.beats += 1
        else:
            self._heard.fail(f"HTTP {status}: {self._body[:200].decode(errors='replace')}")
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(self._body)


class Sender:
    """The heartbeats of all nodes, spread evenly over the interval."""

    def __init__(self, fleet: Fleet, nodes: list[Node], interval_s: float) -> None:
        self._nodes = nodes
        self._step_s = interval_s / len(nodes)
        self._loop = asyncio.get_running_loop()
        self._began_at = 0.0
        self._sent = 0
        self._messages = [
            [_post(HEARTBEAT, beat(fleet.size, node, number)) for number in range(BEATS)]
            for node in range(len(nodes))
        ]

    def start(self) -> None:
        self._began_at = self._loop.time()
        self._next()

    @property
    def due(self) -> int:
        """So many, by the clock."""
        return int((self._loop.time() - self._began_at) / self._step_s)

    def _next(self) -> None:
        node = self._sent % len(self._nodes)
        number = self._sent // len(self._nodes)
        self._nodes[node].tell(self._messages[node][number % BEATS])
        self._sent += 1
        self._loop.call_at(self._began_at + self._sent * self._step_s, self._next)


async def serve(fleet: Fleet) -> None:
    """Until the process is told to end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    port = await _listen(fleet.size.nodes)
    heard = Heard()
    nodes = await _connect(fleet, heard)
    interval_s = None
    for number, node in enumerate(nodes):
        message = _post(REGISTER, registration(fleet.size, number, port))
        interval_s = asked_interval(await node.tell(message))
    if interval_s is None:
        raise RuntimeError(f"nodes could not register: {heard.errors}")
    heard.beats = 0
    sender = Sender(fleet, nodes, interval_s)
    sender.start()
    print(READY, flush=True)
    await ended.wait()
    heard.expect(sender.due)
    # Before the connections go, which is no failure then.
    print(msgspec.json.encode(heard).decode(), flush=True)


async def _listen(nodes: int) -> int:
    """One port at every node's address."""
    loop = asyncio.get_running_loop()
    port = 0
    for node in range(nodes):
        made = lambda: Upstream(loop)  # noqa: E731
        server = await loop.create_server(made, address(node), port, backlog=BACKLOG)
        port = server.sockets[0].getsockname()[1]
    return port


async def _connect(fleet: Fleet, heard: Heard) -> list[Node]:
    loop = asyncio.get_running_loop()

    async def one() -> Node:
        _, node = await loop.create_connection(lambda: Node(heard), "127.0.0.1", fleet.port)
        return node

    nodes: list[Node] = []
    while len(nodes) < fleet.size.nodes:
        batch = min(fleet.size.nodes - len(nodes), CONNECT_AT_ONCE)
        nodes += await asyncio.gather(*(one() for _ in range(batch)))
    return nodes


def _post(path: str, body: bytes) -> bytes:
    """As `rolemesh register` sends it."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: rolemesh-benchmark\r\n"
        f"Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nAuthorization: Bearer {NODE_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(sys.argv[1], type=Fleet)))
