"""One answer out of a stream's events, in llama-server's own shape and order of keys.

Fed by `node/collect` with the stream of a request that `wire/streamable` took. Whatever the last
event says beside its choices (usage, timings, model, id) is the answer's; texts are joined, tool
calls too, each by its index, and log probabilities are strung together as they are written.

Every text in a chat's delta is one of the message, whatever its name: a later build's are kept.
What is kept is bounded, and small pieces count for the room that they take. Nothing raises while it
is fed: `is_decided` says that more of the stream changes nothing, and `whole` what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from attrs import define, field, frozen
from msgspec import Raw

from rolemesh.errors import UpstreamError
from rolemesh.wire.streamable import CHAT

MAX_KEPT_BYTES = 64 * 2**20
_PIECE_BYTES = 64  # what each text counts for, besides its length
_CALL_BYTES = 256
_QUOTE = ord('"')
_ORDER = ("choices", "created", "model", "system_fingerprint", "object", "usage", "id", "timings")


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Probabilities(msgspec.Struct):
    content: list[Raw] | None = None


class _Choice(msgspec.Struct):
    """Of a chat (`delta`) or of a completion (`text`)."""

    text: str | None = None
    delta: dict[str, Raw] | None = None
    logprobs: _Probabilities | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    code: int | str | None = None


_read_event = msgspec.json.Decoder(dict[str, Raw]).decode
_read_choices = msgspec.json.Decoder(list[_Choice]).decode
_read_calls = msgspec.json.Decoder(list[_CallDelta] | None).decode
_read_text = msgspec.json.Decoder(str).decode
_read_error = msgspec.json.Decoder(_Error).decode


@frozen
class Assembled:
    """An answer, or the child's error in mid-stream as it would have answered with it."""

    status: int
    body: bytes


@define(eq=False)
class _Call:
    """A tool call that is being told."""

    id: str = ""
    type: str = "function"
    name: str = ""
    arguments: list[str] = field(factory=list)

    def add(self, delta: _CallDelta) -> int:
        """Returns what it counts for."""
        self.id = delta.id or self.id
        self.type = delta.type or self.type
        function = delta.function or _Function()
        self.name = function.name or self.name
        self.arguments.append(function.arguments or "")
        texts = (delta.id, delta.type, function.name, function.arguments)
        return sum(len(text or "") for text in texts) + _PIECE_BYTES

    def told(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"type": self.type, "function": function, "id": self.id}


class Assembler:
    """The state of one stream. `path` tells a chat from a completion."""

    def __init__(self, path: str) -> None:
        self._is_chat = path == CHAT
        self._pieces: list[bytes] = []  # of a line that has not ended
        self._line_bytes = self._kept_bytes = 0
        self._flaw: str | None = None
        self._error: Raw | None = None
        self._done = False
        self._last: dict[str, Raw] = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: list[_Call] = []
        self._probabilities: list[bytes] = []
        self._finish_reason: str | None = None

    @property
    def is_decided(self) -> bool:
        """Whether `whole` knows its answer, however the stream goes on."""
        return self._done or self._error is not None or self._flaw is not None

    def feed(self, data: bytes) -> None:
        """More of the stream, cut anywhere."""
        if self.is_decided:
            return
        try:
            for line in self._lines(data):
                self._take_line(line)
        except (msgspec.DecodeError, RecursionError):
            self._flaw = "it sent an event that cannot be read"
        if self._kept_bytes + self._line_bytes > MAX_KEPT_BYTES:
            self._flaw = f"its answer is larger than {MAX_KEPT_BYTES} bytes"

    def whole(self) -> Assembled:
        """Call it when that is decided, or the stream has ended. Raises UpstreamError when there is
        no whole answer."""
        if self._error is not None:
            return Assembled(_status(self._error), b'{"error":' + bytes(self._error) + b"}")
        if self._flaw is not None:
            raise UpstreamError(f"The model server broke off: {self._flaw}.")
        if not self._done or not self._last:
            raise UpstreamError("The model server broke off: its stream ended too early.")
        choice = self._chat_choice() if self._is_chat else self._completion_choice()
        kind = "chat.completion" if self._is_chat else "text_completion"
        told: dict[str, Any] = {**self._last, "choices": [choice], "object": kind}
        ordered = {key: told.pop(key) for key in _ORDER if key in told}
        return Assembled(200, msgspec.json.encode({**ordered, **told}))

    def _lines(self, data: bytes) -> Iterator[bytes]:
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield b"".join((*self._pieces, line)) if self._pieces else line
            self._pieces.clear()
            self._line_bytes = 0
        if rest:
            self._pieces.append(rest)
            self._line_bytes += len(rest)

    def _take_line(self, line: bytes) -> None:
        name, _, value = line.rstrip(b"\r").partition(b":")
        if name not in (b"data", b"error") or self._done:
            return  # a comment, the end of an event, or what may follow the end
        value = value.strip()
        if value == b"[DONE]":
            self._done = True
        elif name == b"error":  # so older builds of llama-server name the line
            self._error = Raw(value)
        else:
            self._take_event(_read_event(value))

    def _take_event(self, event: dict[str, Raw]) -> None:
        if "error" in event:
            self._error = event["error"]
            return
        self._last = event
        if "choices" not in event:
            return
        for choice in _read_choices(event["choices"]):
            self._take_choice(choice)

    def _take_choice(self, choice: _Choice) -> None:
        self._finish_reason = choice.finish_reason or self._finish_reason
        if choice.text is not None:
            self._add_text("text", choice.text)
        for name, value in (choice.delta or {}).items():
            if name == "tool_calls":
                self._take_calls(_read_calls(value) or [])
            elif name != "role" and memoryview(value)[0] == _QUOTE:
                self._add_text(name, _read_text(value))
        if choice.logprobs is not None:
            entries = [bytes(entry) for entry in choice.logprobs.content or []]
            self._probabilities += entries
            self._kept_bytes += sum(map(len, entries)) + _PIECE_BYTES * len(entries)

    def _take_calls(self, deltas: list[_CallDelta]) -> None:
        for delta in deltas:
            # An index may be new, but it leaves none out.
            if delta.index == len(self._calls):
                self._calls.append(_Call())
                self._kept_bytes += _CALL_BYTES
            if not 0 <= delta.index < len(self._calls):
                raise msgspec.DecodeError("a tool call's index")
            self._kept_bytes += self._calls[delta.index].add(delta)

    def _add_text(self, name: str, text: str) -> None:
        if name not in self._texts:
            self._texts[name] = []
            self._kept_bytes += len(name) + _PIECE_BYTES
        self._texts[name].append(text)
        self._kept_bytes += len(text) + _PIECE_BYTES

    def _chat_choice(self) -> dict[str, Any]:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        content = texts.pop("content", "")
        message: dict[str, Any] = {"role": "assistant", "content": content, **texts}
        if self._calls:
            message["content"] = content or None
            message["tool_calls"] = [call.told() for call in self._calls]
        choice: dict[str, Any] = {
            "finish_reason": self._finish_reason,
            "index": 0,
            "message": message,
        }
        if self._probabilities:
            choice["logprobs"] = self._logprobs()
        return choice

    def _completion_choice(self) -> dict[str, Any]:
        return {
            "text": "".join(self._texts.get("text", ())),
            "index": 0,
            "logprobs": self._logprobs(),
            "finish_reason": self._finish_reason,
        }

    def _logprobs(self) -> Raw | None:
        if not self._probabilities:
            return None
        return Raw(b'{"content":[' + b",".join(self._probabilities) + b"]}")


def _status(error: Raw) -> int:
    """llama-server tells the status beside the message."""
    try:
        code = _read_error(error).code
    except msgspec.DecodeError:
        return 500
    return code if isinstance(code, int) and 400 <= code <= 599 else 500
