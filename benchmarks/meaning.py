"""What an answer says, for gateways that make its JSON anew.

Pure. Their bytes cannot be compared; what can is what the upstream has put into them: the text of a
whole answer, and of a stream the numbered texts of its events in order, then `[DONE]`.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from attrs import field, frozen

from benchmarks.script import DONE, Script, pieces

_SEPARATOR = b"\n\n"
_FIELD = b"data: "


@frozen
class _Text:
    content: str | None = None


@frozen
class _Choice:
    message: _Text = field(factory=_Text)
    delta: _Text = field(factory=_Text)


@frozen
class _Answer:
    choices: tuple[_Choice, ...]


def says_as_expected(body: bytes, script: Script) -> bool:
    try:
        texts = _streamed(body) if script.streams else [_text(body)]
    except (ValueError, msgspec.DecodeError):
        return False
    return texts == _expected(script)


@lru_cache(maxsize=64)
def _expected(script: Script) -> list[str]:
    if not script.streams:
        return [_text(pieces(script)[0])]
    return [_event(piece.removesuffix(_SEPARATOR)) for piece in pieces(script)[:-1]]


def _streamed(body: bytes) -> list[str]:
    """Of the events that have a text: some gateways add one that ends the answer, without."""
    if not body.endswith(_SEPARATOR + DONE):
        raise ValueError("a stream ends with [DONE]")
    events = body.removesuffix(_SEPARATOR + DONE).split(_SEPARATOR)
    return [text for text in map(_event, events) if text]


def _event(event: bytes) -> str:
    if not event.startswith(_FIELD):
        raise ValueError("an event of the API has one field, data")
    return _text(event.removeprefix(_FIELD))


def _text(json: bytes) -> str:
    answer = msgspec.json.decode(json, type=_Answer)
    return "".join(each.message.content or each.delta.content or "" for each in answer.choices)
