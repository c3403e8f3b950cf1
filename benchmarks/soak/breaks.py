"""Visits of the soak that break: clients that leave, and upstreams that cut.

A client that left is told nothing, so what is checked there is what it leaves behind: nothing. What
a client is told of a broken upstream is checked each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.script import DONE, PATH, expected, pieces
from benchmarks.soak.scene import Scene, Wrong, body, head, post
from benchmarks.soak.setup import DEAD, FAULTY, HASTY, KEYS
from benchmarks.soak.upstream import BROKEN_STREAM, EVENTS_BEFORE, Fault
from benchmarks.soak.visits import ANSWER, FLOOD, MUCH, SMALL_BUFFER_BYTES, STREAM, answered
from benchmarks.soak.wire import Wire

Leaving = Callable[[Scene, Wire], Awaitable[None]]
MOMENT_S = 0.05


async def _in_the_head(scene: Scene, wire: Wire) -> None:
    await wire.send(scene.request(ANSWER)[: scene.rng.randrange(1, 120)])


async def _in_the_body(scene: Scene, wire: Wire) -> None:
    await wire.send(scene.request(ANSWER, size=65_536)[: scene.rng.randrange(300, 60_000)])


async def _in_a_chunk(scene: Scene, wire: Wire) -> None:
    fields = (*KEYS, ("Transfer-Encoding", "chunked"))
    await wire.send(head("POST", PATH, fields) + b"400\r\n" + body(ANSWER)[:500])


async def _before_the_answer(scene: Scene, wire: Wire) -> None:
    await wire.send(scene.request(ANSWER, FAULTY, prompt=Fault.SILENT.text))


async def _in_a_stream(scene: Scene, wire: Wire) -> None:
    await wire.send(scene.request(STREAM))
    await wire.head()
    await wire.some()


async def _in_a_flood(scene: Scene, wire: Wire) -> None:
    """While the gateway holds back what is not read."""
    await wire.send(scene.request(scene.rng.choice((FLOOD, MUCH))))
    await wire.head()
    await asyncio.sleep(MOMENT_S)


async def _with_more_behind(scene: Scene, wire: Wire) -> None:
    await wire.send(scene.request(STREAM) + scene.request(ANSWER) * 3)
    await wire.head()


LEAVINGS: tuple[Leaving, ...] = (
    _in_the_head,
    _in_the_body,
    _in_a_chunk,
    _before_the_answer,
    _in_a_stream,
    _in_a_flood,
    _with_more_behind,
)


async def leaving(scene: Scene) -> None:
    """Every way of leaving, each with a FIN or an RST, after a moment or at once."""
    for leave in LEAVINGS:
        wire = await Wire.open(scene.port, SMALL_BUFFER_BYTES)
        try:
            await leave(scene, wire)
            await asyncio.sleep(scene.rng.choice((0.0, MOMENT_S)))
            if scene.rng.random() < 0.5:
                wire.reset()
        finally:
            await wire.close()


NO_ANSWER = {
    Fault.NO_ANSWER: 502,
    Fault.RESET: 502,
    Fault.HALF_HEAD: 502,
    Fault.NO_HTTP: 502,
    Fault.BUSY: 503,
}


async def upstream_broken(scene: Scene) -> None:
    """Before its first byte: the client gets an error, and may go on."""
    async with scene.wire() as wire:
        for fault, status in NO_ANSWER.items():
            await answered(wire, scene.request(ANSWER, FAULTY, prompt=fault.text), status)
        await answered(wire, scene.request(ANSWER, DEAD), 503)
        await answered(wire, post(body(ANSWER)), 200)


async def upstream_cut(scene: Scene) -> None:
    """In mid-answer: what came is there, and then it is told, or cut."""
    async with scene.wire() as wire:
        for fault in (Fault.CUT_STREAM, Fault.MID_CHUNK):
            await _broken_stream(scene, wire, FAULTY, fault)
    async with scene.wire() as wire:
        reply = await wire.ask(scene.request(ANSWER, FAULTY, prompt=Fault.HALF_BODY.text))
        if reply.status != 200 or reply.whole or not expected(ANSWER).startswith(reply.body):
            raise Wrong(f"a cut answer came as HTTP {reply.status}, whole: {reply.whole}")


async def upstream_silent(scene: Scene) -> None:
    """For longer than the gateway waits."""
    async with scene.wire() as wire:
        await answered(wire, scene.request(ANSWER, HASTY, prompt=Fault.SILENT.text), 504)
        await _broken_stream(scene, wire, HASTY, Fault.STALLED_STREAM)


async def _broken_stream(scene: Scene, wire: Wire, model: str, fault: Fault) -> None:
    request = scene.request(BROKEN_STREAM, model, prompt=fault.text)
    events = (await answered(wire, request, 200)).body
    before = b"".join(pieces(BROKEN_STREAM)[:EVENTS_BEFORE])
    if not events.startswith(before):
        raise Wrong(f"events are missing before the cut ({len(events)} bytes)")
    last = events[len(before) :]
    if DONE in last or not last.startswith(b"data: {") or b'"error"' not in last:
        raise Wrong(f"a broken stream ends with {last[:200]!r}")
