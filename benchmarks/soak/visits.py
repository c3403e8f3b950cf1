"""Clients of the soak that behave: ordinary ones, slow ones, and those with odd requests.

Each visit is one connection. Every answer is compared with what the script says, byte for byte.
"""

from __future__ import annotations

import asyncio

from benchmarks.script import PATH, Script, expected
from benchmarks.soak.scene import JSON, Scene, Wrong, body, head, post
from benchmarks.soak.setup import BACKED, FOUND, KEYS, PLAIN
from benchmarks.soak.wire import Reply, Wire

ANSWER = Script(answer_bytes=920)
STREAM = Script(answer_bytes=230, events=20, gap_ms=20)
LARGE_EVENTS = Script(answer_bytes=4096, events=30, gap_ms=10)
MUCH = Script(answer_bytes=2 * 2**20)
FLOOD = Script(answer_bytes=4096, events=256, gap_ms=1)
ON_A_CONNECTION = 10
SMALL_BUFFER_BYTES = 8192
TRICKLE_S = 0.03  # after each 64 KiB


def check(scene: Scene, reply: Reply, script: Script) -> None:
    """Raises Wrong."""
    if reply.status != 200:
        raise Wrong(f"HTTP {reply.status}: {reply.body[:200]!r}")
    if not reply.whole or reply.body != expected(script):
        raise Wrong(f"another body than expected ({len(reply.body)} bytes, whole: {reply.whole})")
    scene.tally.answers += 1
    scene.tally.events += script.events


async def _several(scene: Scene, script: Script, model: str, pause_s: float = 0.02) -> None:
    """Requests one after the other on one connection."""
    request = scene.request(script, model)
    async with scene.wire() as wire:
        for _ in range(ON_A_CONNECTION):
            check(scene, await wire.ask(request), script)
            await asyncio.sleep(pause_s)


async def ordinary(scene: Scene) -> None:
    await _several(scene, ANSWER, PLAIN)


async def to_a_node(scene: Scene) -> None:
    await _several(scene, ANSWER, FOUND)


async def failing_over(scene: Scene) -> None:
    await _several(scene, ANSWER, BACKED, pause_s=0.1)


async def streaming(scene: Scene) -> None:
    async with scene.wire() as wire:
        check(
            scene, await wire.ask(scene.request(STREAM, scene.rng.choice((PLAIN, FOUND)))), STREAM
        )


async def large_events(scene: Scene) -> None:
    async with scene.wire() as wire:
        check(scene, await wire.ask(scene.request(LARGE_EVENTS)), LARGE_EVENTS)


async def large_prompt(scene: Scene) -> None:
    async with scene.wire() as wire:
        check(scene, await wire.ask(scene.request(ANSWER, size=2**20)), ANSWER)


async def _slowly(scene: Scene, script: Script) -> None:
    async with scene.wire(SMALL_BUFFER_BYTES) as wire:
        wire.pause_s = TRICKLE_S
        check(scene, await wire.ask(scene.request(script)), script)


async def slow_reader(scene: Scene) -> None:
    await _slowly(scene, MUCH)


async def slow_reader_of_events(scene: Scene) -> None:
    await _slowly(scene, FLOOD)


async def slow_writer(scene: Scene) -> None:
    """Cut anywhere, in the head as well."""
    request = scene.request(ANSWER, size=4096)
    cuts = sorted(scene.rng.sample(range(1, len(request)), 4))
    parts = [request[at:to] for at, to in zip((0, *cuts), (*cuts, None), strict=True)]
    async with scene.wire() as wire:
        await wire.send(*parts, gap_s=0.02)
        check(scene, await wire.reply(), ANSWER)


async def chunked(scene: Scene) -> None:
    content = body(ANSWER, size=8192)
    pieces = [content[at : at + 3000] for at in range(0, len(content), 3000)]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    request = head("POST", PATH, (JSON, *KEYS, ("Transfer-Encoding", "chunked"))) + coded
    async with scene.wire() as wire:
        for _ in range(2):
            check(scene, await wire.ask(request), ANSWER)


async def expecting(scene: Scene) -> None:
    """Waits to be asked for its body."""
    content = body(ANSWER)
    length = ("Content-Length", str(len(content)))
    async with scene.wire() as wire:
        await wire.send(head("POST", PATH, (JSON, *KEYS, length, ("Expect", "100-continue"))))
        status, _ = await wire.head()
        if status != 100:
            raise Wrong(f"HTTP {status} instead of 100")
        check(scene, await wire.ask(content), ANSWER)


async def pipelined(scene: Scene) -> None:
    """Ordinary requests and a stream, then one that leaves the fast lane, written at once."""
    scripts = (ANSWER, STREAM, ANSWER)
    async with scene.wire() as wire:
        await wire.send(b"".join(map(scene.request, scripts)) + head("GET", "/v1/models"))
        for script in scripts:
            check(scene, await wire.reply(), script)
        _check_status(await wire.reply(), 200)


async def looking_around(scene: Scene) -> None:
    async with scene.wire() as wire:
        for path in ("/health", "/ready", "/v1/models", f"/v1/models/{PLAIN}"):
            _check_status(await wire.ask(head("GET", path)), 200)


REFUSED: tuple[tuple[int, bytes], ...] = (
    (401, post(body(ANSWER), (JSON, ("Authorization", "Bearer of-nobody")))),
    (401, post(body(ANSWER), (JSON,))),
    (400, post(b'{"model":')),
    (400, post(b'{"model": 1}')),
    (400, post(b'{"model": "bench", "model": "bench"}')),
    (415, post(body(ANSWER), (JSON, *KEYS, ("Content-Encoding", "gzip")))),
    (404, head("GET", "/v1/nothing")),
    (405, head("DELETE", PATH)),
    (431, head("GET", "/health", (("X-Long", "x" * 9000),))),
    (413, head("POST", PATH, (JSON, *KEYS, ("Content-Length", str(64 * 2**20))))),
    (400, b"NONSENSE\r\n\r\n"),
    (400, head("GET", "/health", (("Host", "another"),))),
)


async def refused(scene: Scene) -> None:
    """Bad requests, each on a connection of its own; then a model that nobody has ever named."""
    name = f"model-{scene.rng.getrandbits(48):x}"
    for status, request in (*REFUSED, (404, post(body(ANSWER, name)))):
        async with scene.wire() as wire:
            _check_status(await wire.ask(request), status)


def _check_status(reply: Reply, status: int) -> None:
    if reply.status != status or not reply.whole:
        raise Wrong(f"HTTP {reply.status} instead of {status}: {reply.body[:200]!r}")


async def answered(wire: Wire, request: bytes, status: int) -> Reply:
    """Raises Wrong when it is answered in another way."""
    reply = await wire.ask(request)
    _check_status(reply, status)
    return reply
