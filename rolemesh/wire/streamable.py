"""Which requests the node asks its child to stream although their client wants one answer.

llama-server ends a stream when its reader leaves, and nothing else: so a stream is what frees a
slot at once. Asked by the node's forward; `wire/assemble` makes the one answer of it. Only requests
whose two answers are known to be the same are taken, all others go to the child as they came. Read
from llama.cpp's server-task.cpp and server-context.cpp, and held to it by tests:

- Several choices or prompts come as one stream, with one usage: not taken.
- A chat's stream leaves out the log probabilities of tokens that show no text (the end of the
  answer, tags of reasoning and tools), and with tools refuses them: not taken.
- Of a completion with log probabilities, a stop string's are taken off only in the one answer.
- A chat that goes on with the assistant's last message has that message in the one answer only.
- `verbose` repeats the answer inside of itself; `deepseek-legacy` puts reasoning elsewhere.

One difference is left, and cannot be seen beforehand: when `max_tokens` ends an answer just where
its stream is holding text back (half a character, what may become a stop string, the beginning of a
tag), that piece is missing from the stream, and so from what is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Raw

from rolemesh.wire.body import Body

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

_NOT_SET = (b"null", b"false", b"0")
_ONE = (b"null", b"1")
_REASONING = (b"null", b'"auto"', b'"none"', b'"deepseek"')
_NO_STOP = (b"null", b"[]", b'""')
_QUOTE = ord('"')
_NULL = Raw(b"null")
_TRUE = Raw(b"true")
_WITH_USAGE = Raw(b'{"include_usage":true}')


class _Message(msgspec.Struct):
    role: str | None = None


_read_messages = msgspec.json.Decoder(list[Raw]).decode
_read_message = msgspec.json.Decoder(_Message).decode
_read_tokens = msgspec.json.Decoder(list[int]).decode
_Only = Annotated[list[str | list[int]], msgspec.Meta(min_length=1, max_length=1)]
_read_only = msgspec.json.Decoder(_Only).decode


def streamable(path: str, body: Body) -> bool:
    """Whether the answer put together out of a stream will be the child's own one answer."""
    if body.stream:
        return False
    fields = body.fields
    if not all(_is(fields, key, _ONE) for key in ("n", "n_cmpl")):
        return False
    if not _is(fields, "verbose", _NOT_SET) or not _is(fields, "reasoning_format", _REASONING):
        return False
    asks_probabilities = not all(_is(fields, key, _NOT_SET) for key in ("logprobs", "n_probs"))
    if path == CHAT:
        return not asks_probabilities and _begins_its_answer(fields)
    if path == COMPLETIONS:
        may_stop = not _is(fields, "stop", _NO_STOP)
        return not (asks_probabilities and may_stop) and _has_one_prompt(fields)
    return False


def as_stream(body: Body) -> bytes:
    """The body that asks for the same as a stream, every other value as it was sent."""
    asked = {**body.fields, "stream": _TRUE, "stream_options": _WITH_USAGE}
    return msgspec.json.encode(asked)


def _is(fields: Mapping[str, Raw], key: str, values: tuple[bytes, ...]) -> bool:
    """Whether the field is one of these values, or not there."""
    return key not in fields or bytes(fields[key]) in values


def _begins_its_answer(fields: Mapping[str, Raw]) -> bool:
    """Whether the answer does not go on with a message of the assistant."""
    going_on = ("continue_final_message", "echo")
    if not all(_is(fields, key, _NOT_SET) for key in going_on):
        return False
    try:
        messages = _read_messages(fields.get("messages", _NULL))
        return not messages or _read_message(messages[-1]).role != "assistant"
    except (msgspec.DecodeError, RecursionError):
        return False  # the child says what is wrong


def _has_one_prompt(fields: Mapping[str, Raw]) -> bool:
    """A text, a list of tokens, or a list of one of these."""
    prompt = fields.get("prompt", _NULL)
    if memoryview(prompt)[0] == _QUOTE:
        return True
    for read in (_read_tokens, _read_only):
        try:
            read(prompt)
            return True
        except (msgspec.DecodeError, RecursionError):
            continue
    return False
