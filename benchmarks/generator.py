"""The load: a process of its own, `python -m benchmarks.generator`.

Reads one `Job` as a line of JSON on stdin. Says `ready` when it has warmed up, waits for a line,
does the job, and says `done` and the `Outcome`. What is waited for on stdin is waited for without
the loop: nothing is to happen in the meantime.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial

import msgspec
import uvloop

from benchmarks.client import Client, Tally
from benchmarks.job import DONE, OPEN, READY, Job, Outcome, spread
from benchmarks.script import PATH, Script, request_body

CONNECT_AT_ONCE = 50  # so that no listen queue overflows


class Round:
    """One script on every connection: once, or again and again for `duration_s`."""

    def __init__(self, clients: list[Client], job: Job, script: Script, duration_s: float) -> None:
        self._clients = clients
        self._job = job
        self._script = script
        self._request = _request(job, script)
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + duration_s
        self._left = self._unopened = len(clients)
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def run(self, ramp_s: float, pace_s: float, all_open: Callable[[], None]) -> None:
        self._all_open = all_open
        began_at = self._loop.time()
        for number, client in enumerate(self._clients):
            at = began_at + number * ramp_s / len(self._clients)
            client.opened = self._opened
            client.ended = partial(self._ended, client, at, pace_s)
            self._loop.call_at(at, self._ask, client)
        timer = self._loop.call_later(self._job.give_up_s, self._give_up)
        await self._over
        timer.cancel()

    def _ask(self, client: Client, late_s: float = 0.0) -> None:
        client.ask(self._request, self._script, late_s)

    def _opened(self) -> None:
        self._unopened -= 1
        if not self._unopened:
            self._all_open()

    def _ended(self, client: Client, asked_at: float, pace_s: float) -> None:
        now, next_at = self._loop.time(), asked_at + pace_s
        if client.usable and max(now, next_at) < self._until:
            if not pace_s:
                self._ask(client)
                return
            # By the clock: a late answer does not make the next requests late. One that was due
            # while the answer before it was waited for has been waiting as well.
            client.ended = partial(self._ended, client, next_at, pace_s)
            self._loop.call_at(next_at, self._ask, client, max(0.0, now - next_at))
            return
        self._left -= 1
        if not self._left:
            self._over.set_result(None)

    def _give_up(self) -> None:
        self._until = 0.0
        for client in self._clients:
            client.give_up()


class Generator:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._tally = Tally()
        self._clients: list[Client] = []
        self._idle: list[Client] = []

    async def connect(self) -> None:
        """The idle ones make their one request as they come, so that few are made at once."""
        for number in _batches(self._job.idle):
            batch = await self._connected(number)
            await Round(batch, self._job, self._job.script, 0.0).run(0.0, 0.0, lambda: None)
            self._idle += batch
        for number in _batches(self._job.connections):
            self._clients += await self._connected(number)

    async def _connected(self, number: int) -> list[Client]:
        loop = asyncio.get_running_loop()

        async def one() -> Client:
            made = lambda: Client(self._tally, self._job.rewritten)  # noqa: E731
            _, client = await loop.create_connection(made, "127.0.0.1", self._job.port)
            return client

        return await asyncio.gather(*(one() for _ in range(number)))

    async def warm_up(self) -> None:
        job = self._job
        if job.warm_up is not None:
            work = Round(self._clients, job, job.warm_up, job.warm_up_s)
            await work.run(0.0, 0.0, lambda: None)

    async def work(self) -> Outcome:
        """The measured part. What the warm-up failed at counts as well: it must not go unseen."""
        job, tally = self._job, self._tally
        tally.start_counting()
        loop = asyncio.get_running_loop()
        cpu, began_at = time.process_time(), loop.time()
        tell = partial(_say, OPEN) if job.streams_once else lambda: None
        work = Round(self._clients, job, job.script, job.duration_s)
        await work.run(job.ramp_s, job.pace_s, tell)
        return Outcome(
            answers=tally.answers,
            events=tally.events,
            failed=tally.failed,
            errors=tuple(tally.errors),
            elapsed_s=loop.time() - began_at,
            cpu_s=time.process_time() - cpu,
            first_byte=spread(tally.first_bytes),
            duration=spread(tally.durations),
            idle_closed=sum(not each.usable for each in self._idle),
        )


def _batches(number: int) -> list[int]:
    whole, rest = divmod(number, CONNECT_AT_ONCE)
    return [CONNECT_AT_ONCE] * whole + [rest] * bool(rest)


def _request(job: Job, script: Script) -> bytes:
    body = request_body(script, job.prompt_bytes)
    lines = [
        f"POST {PATH} HTTP/1.1",
        f"Host: 127.0.0.1:{job.port}",
        "User-Agent: rolemesh-benchmark",
        "Accept: */*",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in job.headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _say(word: str) -> None:
    print(word, flush=True)


async def main() -> None:
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    generator = Generator(job)
    await generator.connect()
    await generator.warm_up()
    _say(READY)
    sys.stdin.readline()
    outcome = await generator.work()
    _say(DONE)
    _say(msgspec.json.encode(outcome).decode())
    # Whoever measures reads the gateway's figures before the connections go.
    sys.stdin.readline()


if __name__ == "__main__":
    uvloop.run(main())
