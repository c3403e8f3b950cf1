"""Two gateways and three nodes, two of them on one host: each is restarted, one after the other,
while twenty clients stream, and nobody loses a request that had not begun to be answered."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from attrs import define, field

from tests.gateway_process import GatewayProcess
from tests.mesh.conftest import ROLE, Mesh, url_of, wait_fresh, wait_told
from tests.node_process import NodeProcess, error_of, model
from tests.script import DONE

CLIENTS = 20
HOSTS = {"one": "127.0.0.1", "two": "127.0.0.1", "three": "127.0.0.2"}
PATIENCE_S = 15.0  # what a client gives its two gateways for the beginning of an answer
PAUSE_S = 0.3
LONG = 900  # tokens: a stream that is not at its end when a daemon ends


class Outcome(enum.Enum):
    WHOLE = "whole"
    ERROR = "an error event at its end"
    CUT = "a connection that broke"
    SILENT = "an end without a word"
    ODD = "another status"
    LOST = "no answer"


@define(eq=False)
class Client:
    """Knows both gateways, and asks that which served it last. A gateway refuses by 503, or by its
    connection: not made, or ended before anything of an answer has come."""

    gateways: Sequence[str]
    session: aiohttp.ClientSession
    ends: Counter[Outcome] = field(factory=Counter)
    refusals: Counter[str] = field(factory=Counter)

    async def run(self, done: asyncio.Event) -> None:
        while not done.is_set():
            self.ends[await self._request()] += 1
            await asyncio.sleep(PAUSE_S)

    async def _request(self) -> Outcome:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                async with self.ask(max_tokens=150) as response:
                    if response.status != 503:
                        return await outcome(response)
                    self.refusals["503"] += 1
            except aiohttp.ClientConnectionError as error:
                self.refusals[type(error).__name__] += 1
            self.gateways = [*self.gateways[1:], self.gateways[0]]
        return Outcome.LOST

    def ask(self, max_tokens: int) -> Any:
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": ROLE, "stream": True, "max_tokens": max_tokens, "messages": messages}
        return self.session.post(f"{self.gateways[0]}/v1/chat/completions", json=body)


async def outcome(response: aiohttp.ClientResponse) -> Outcome:
    if response.status != 200:
        return Outcome.ODD
    try:
        body = await response.read()
    except aiohttp.ClientError:
        return Outcome.CUT
    if body.endswith(DONE):
        return Outcome.WHOLE
    return Outcome.ERROR if error_of(body) is not None else Outcome.SILENT


@define(eq=False)
class Traffic:
    clients: Sequence[Client]

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, gateways: Sequence[GatewayProcess]) -> AsyncIterator[Traffic]:
        """Half of the clients begin at each gateway."""
        urls = [url_of(gateway) for gateway in gateways]
        done = asyncio.Event()
        # A connection for each request: none is lost by being sent on one that was kept too long.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            turned = [urls, urls[::-1]]
            clients = [Client(turned[number % 2], session) for number in range(CLIENTS)]
            for client in clients:
                group.create_task(client.run(done))
            yield cls(clients)
            done.set()

    @property
    def ends(self) -> Counter[Outcome]:
        return sum((client.ends for client in self.clients), Counter())

    @property
    def refusals(self) -> Counter[str]:
        return sum((client.refusals for client in self.clients), Counter())

    async def flows(self) -> None:
        """Until each client has had an answer more."""
        counts = [client.ends.total() for client in self.clients]
        async with asyncio.timeout(30):
            for client, count in zip(self.clients, counts, strict=True):
                while client.ends.total() == count:  # noqa: ASYNC110 - told by nothing but this
                    await asyncio.sleep(0.02)

    async def stream_through(
        self, gateway: GatewayProcess, node_id: str | None = None
    ) -> asyncio.Task[Outcome]:
        """A long stream that has begun."""
        witness = Client([url_of(gateway)], self.clients[0].session)
        async with asyncio.timeout(30):
            while True:
                response = await witness.ask(LONG)
                if node_id in (None, response.headers.get("X-RoleMesh-Node")):
                    await response.content.readany()
                    return asyncio.create_task(outcome(response))
                response.close()


async def test_each_daemon_is_restarted_while_twenty_clients_stream(mesh: Mesh, tiny: Path) -> None:
    first, second = mesh.gateway("first"), mesh.gateway("second")
    served = [model("m", tiny, roles=[ROLE], parallel=4, ctx_size=4096, preload=True)]
    one, two, three = (
        mesh.node(name, first, second, models=served, node={"host": host})
        for name, host in HOSTS.items()
    )
    await asyncio.to_thread(settled, first, second)
    async with Traffic.of([first, second]) as traffic:

        async def restart(
            daemon: GatewayProcess | NodeProcess,
            end: Callable[[], None],
            stream: asyncio.Task[Outcome],
        ) -> Outcome:
            """How the stream ended."""
            await asyncio.to_thread(end)
            await traffic.flows()
            await asyncio.to_thread(daemon.start)
            await asyncio.to_thread(settled, first, second)
            return await stream

        for node, name in ((one, "one"), (two, "two")):
            stream = await traffic.stream_through(first, name)
            assert await restart(node, node.stop, stream) in (Outcome.WHOLE, Outcome.ERROR)
        stream = await traffic.stream_through(first, "three")
        assert await restart(three, three.kill, stream) is Outcome.ERROR
        # So far only nodes have ended: of that nobody can know but who had a broken stream.
        assert not traffic.refusals
        stream = await traffic.stream_through(first)
        assert await restart(first, first.stop, stream) in (Outcome.WHOLE, Outcome.ERROR)
        assert traffic.ends.keys() <= {Outcome.WHOLE, Outcome.ERROR}
        # A gateway that is killed can say nothing more, but what it began has no end that looks
        # like one.
        stream = await traffic.stream_through(second)
        assert await restart(second, second.kill, stream) is Outcome.CUT
        await traffic.flows()
    assert traffic.ends.keys() <= {Outcome.WHOLE, Outcome.ERROR, Outcome.CUT}, traffic.ends
    assert "503" not in traffic.refusals


def settled(*gateways: GatewayProcess) -> None:
    """Every node is fresh at every gateway, with its model READY."""
    for gateway in gateways:
        wait_fresh(gateway, *HOSTS)
        for name in HOSTS:
            wait_told(gateway, name, m="READY")
