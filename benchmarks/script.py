"""What a request asks of the upstream, and the very bytes that have to come back.

The script travels in the request's prompt, so it reaches the upstream through any gateway. The
upstream and the load generator both make the answer from it: one sends it, the other compares.
Pure: no I/O.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from attrs import frozen

MODEL = "bench"
PATH = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
_SCRIPT = re.compile(rb"script=(\d+)x(\d+)/(\d+);")


@frozen
class Script:
    """`events` 0: one JSON answer of `answer_bytes`. Otherwise so many numbered events of that size
    (and `[DONE]`), one every `gap_ms`."""

    answer_bytes: int
    events: int = 0
    gap_ms: int = 0

    @property
    def streams(self) -> bool:
        return self.events > 0

    @property
    def text(self) -> str:
        return f"script={self.answer_bytes}x{self.events}/{self.gap_ms};"


def script_in(body: bytes) -> Script | None:
    found = _SCRIPT.search(body)
    return None if found is None else _script(found[0])


def request_body(script: Script, size: int) -> bytes:
    """A chat request of exactly `size` bytes."""
    fields: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": script.text}],
    }
    if script.streams:
        fields["stream"] = True
    bare = json.dumps(fields, separators=(",", ":"))
    if len(bare) > size:
        raise ValueError(f"a request has at least {len(bare)} bytes")
    filler = ("Say it again. " * (size // 14 + 1))[: size - len(bare)]
    return bare.replace(script.text, script.text + filler).encode()


@lru_cache(maxsize=64)
def pieces(script: Script) -> tuple[bytes, ...]:
    """The answer's body as the upstream writes it: whole, or event by event."""
    if not script.streams:
        return (_padded(_COMPLETION, script.answer_bytes),)
    events = (_event(number, script.answer_bytes) for number in range(script.events))
    return (*events, DONE)


@lru_cache(maxsize=64)
def expected(script: Script) -> bytes:
    return b"".join(pieces(script))


@lru_cache(maxsize=64)
def _script(text: bytes) -> Script:
    found = _SCRIPT.fullmatch(text)
    if found is None:
        raise ValueError("not a script")
    return Script(*map(int, found.groups()))


_COMPLETION = (
    '{"id":"chatcmpl-bench","object":"chat.completion","created":1764000000,"model":"bench",'
    '"choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350}}'
)
_CHUNK = (
    'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1764000000,'
    '"model":"bench","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
)


def _event(number: int, size: int) -> bytes:
    """Numbered, so that a lost, doubled or moved one is seen. Small ones are no OpenAI chunks."""
    count = f"{number:05d} "
    if size >= len(_CHUNK) + len(count):
        return _padded(_CHUNK, size, count)
    return _padded('data: "%s"\n\n', size, count)


def _padded(template: str, size: int, start: str = "") -> bytes:
    room = size - len(template % start)
    if room < 0:
        raise ValueError(f"{size} bytes are too few")
    return (template % (start + "word " * (room // 5) + "word "[: room % 5])).encode()
