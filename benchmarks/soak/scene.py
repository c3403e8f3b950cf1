"""What every visit of the soak has at hand: the gateway's port, chance, and where to count.

A visit raises `Wrong` when the gateway did anything but what it should; that spoils the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from random import Random

from attrs import define, field

from benchmarks.job import note
from benchmarks.script import PATH, Script, request_body
from benchmarks.soak.setup import KEYS, PLAIN
from benchmarks.soak.wire import Wire

MAX_WORDS = 20
JSON = ("Content-Type", "application/json")


class Wrong(Exception):
    """In words: what came instead of what."""


@define
class Tally:
    """`visits` by kind; `answers` and `events` came whole and byte for byte as they should."""

    visits: Counter[str] = field(factory=Counter)
    wrong: Counter[str] = field(factory=Counter)
    words: list[str] = field(factory=list)
    answers: int = 0
    events: int = 0

    def note_wrong(self, kind: str, words: str) -> None:
        self.wrong[kind] += 1
        note(self.words, f"{kind}: {words}", MAX_WORDS)

    def counted_anew(self) -> Tally:
        """What went wrong before is not forgotten."""
        return Tally(wrong=self.wrong, words=self.words)


@define(eq=False)
class Scene:
    port: int
    tally: Tally = field(factory=Tally)
    rng: Random = field(factory=lambda: Random(7))

    @asynccontextmanager
    async def wire(self, receive_bytes: int | None = None) -> AsyncIterator[Wire]:
        wire = await Wire.open(self.port, receive_bytes)
        try:
            yield wire
        finally:
            await wire.close()

    def request(
        self, script: Script, model: str = PLAIN, size: int = 1024, prompt: str = ""
    ) -> bytes:
        """An ordinary chat request; one in four has an id of its own."""
        content = body(script, model, size, prompt)
        if self.rng.random() < 0.75:
            return post(content)
        return post(content, (JSON, *KEYS, ("X-Request-ID", f"soak-{self.rng.getrandbits(48):x}")))


def body(script: Script, model: str = PLAIN, size: int = 1024, prompt: str = "") -> bytes:
    made = request_body(script, size).replace(script.text.encode(), (script.text + prompt).encode())
    return made.replace(f'"model":"{PLAIN}"'.encode(), f'"model":"{model}"'.encode())


def post(
    content: bytes, headers: Iterable[tuple[str, str]] = (JSON, *KEYS), path: str = PATH
) -> bytes:
    return head("POST", path, (*headers, ("Content-Length", str(len(content))))) + content


def head(method: str, path: str, headers: Iterable[tuple[str, str]] = KEYS) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode()
