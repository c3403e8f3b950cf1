"""How many tokens an answer took: read out of its ends, without parsing the whole.

The relay keeps the first and the last few KiB of what it passed on. OpenAI's answers and streams
tell `usage` at the end; Anthropic's streams tell the prompt's share at the head. What looks like
usage inside a text cannot be taken for it: a quote in a JSON string is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec

WINDOW_BYTES = 16 * 1024  # of either end
_TRIES = 8  # the last usage may be cut in halves, or its like belong to a tool call's arguments

_OPENING = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*\{")
# From the brace to its partner, with one level of objects below at most: usage has no more.
_SHALLOW = re.compile(rb"""\{(?:[^{}"]++|"[^"\\]*+"|\{(?:[^{}"]++|"[^"\\]*+")*+\})*+\}""")
_DECODER = json.JSONDecoder()
_BACKSLASH = 92
_MOST = 2**53
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class Usage(NamedTuple):
    """Numbers of tokens. None: not told."""

    prompt: int | None = None
    completion: int | None = None


class _OpenAI(msgspec.Struct):
    """What nearly every answer tells."""

    prompt_tokens: _Tokens
    completion_tokens: _Tokens


_read_plain = msgspec.json.Decoder(_OpenAI).decode


def read_usage(head: bytes, tail: bytes) -> Usage:
    """The usage told in the last bytes of an answer; what is not told there, in its first ones.

    Both may be the same bytes, or overlap. llama-server's `timings` serve where a stream tells no
    usage (the client has not asked for it).
    """
    at = tail.rfind(b'"usage":{')
    if at > 0 and tail[at - 1] != _BACKSLASH and (plain := _SHALLOW.match(tail, at + 8)):
        try:
            told = _read_plain(plain[0])
            return Usage(told.prompt_tokens, told.completion_tokens)
        except msgspec.DecodeError:
            pass  # told in another way
    end, start = tail[-WINDOW_BYTES:], head[:WINDOW_BYTES]
    prompt = completion = None
    for values, read in (
        (_objects(b'"usage"', end), _from_usage),
        (_objects(b'"usage"', start), _from_usage),
        (_objects(b'"timings"', end), _from_timings),
    ):
        for value in values:
            usage = read(value)
            prompt = usage.prompt if prompt is None else prompt
            completion = usage.completion if completion is None else completion
            if prompt is not None and completion is not None:
                return Usage(prompt, completion)
    return Usage(prompt, completion)


def _objects(key: bytes, data: bytes) -> Iterator[dict[str, object]]:
    """The objects behind this key, the last one first."""
    at = len(data)
    for _ in range(_TRIES):
        at = data.rfind(key, 0, at)
        if at < 0:
            return
        opening = _OPENING.match(data, at + len(key))
        if opening is None or data[at - 1 : at] == b"\\":
            continue  # null, or text
        shallow = _SHALLOW.match(data, opening.end() - 1)
        try:
            if shallow is not None:
                yield msgspec.json.decode(shallow[0])
            else:
                yield _DECODER.raw_decode(data[opening.end() - 1 :].decode(errors="replace"))[0]
        except (ValueError, RecursionError):
            continue  # cut off, or not JSON after all


def _from_usage(values: dict[str, object]) -> Usage:
    prompt = _count(values.get("prompt_tokens"))
    if prompt is None and (prompt := _count(values.get("input_tokens"))) is not None:
        # Anthropic counts what it read from or wrote to its cache beside `input_tokens`.
        for kind in ("cache_read_input_tokens", "cache_creation_input_tokens"):
            prompt += _count(values.get(kind)) or 0
    completion = _count(values.get("completion_tokens"))
    return Usage(prompt, _count(values.get("output_tokens")) if completion is None else completion)


def _from_timings(values: dict[str, object]) -> Usage:
    prompt = _count(values.get("prompt_n"))
    if prompt is not None:
        prompt += _count(values.get("cache_n")) or 0
    return Usage(prompt, _count(values.get("predicted_n")))


def _count(value: object) -> int | None:
    if type(value) is int and 0 <= value <= _MOST:
        return value
    return None
