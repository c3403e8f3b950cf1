"""A stream whose head has gone out already, because its client was told to wait."""

from __future__ import annotations

import msgspec

from rolemesh.core.types import Downstream, Flow, Straight
from rolemesh.errors import UpstreamError
from rolemesh.wire import openai


class BegunStream:
    """core.types.Downstream without the head of another one."""

    __slots__ = ("_downstream",)

    def __init__(self, downstream: Downstream) -> None:
        self._downstream = downstream

    @property
    def started(self) -> bool:
        return True

    @property
    def gone(self) -> bool:
        return self._downstream.gone

    def connect(self, flow: Flow | None) -> Straight | None:
        return self._downstream.connect(flow)

    def start(self, status: int, fields: bytes, length: int | None) -> None:
        """That was long ago."""

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        self._downstream.write(body)
        self._downstream.end()

    def write(self, data: bytes) -> None:
        self._downstream.write(data)

    def end(self) -> None:
        self._downstream.end()

    def cut(self) -> None:
        self._downstream.cut()


def error_event_of(status: int, body: bytes, path: str) -> bytes:
    """A child's plain answer, told in the stream that has begun: its own error, if it is one."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        told = None
    if isinstance(told, dict) and "error" in told:
        if openai.is_anthropic(path):
            told = {"type": "error", **told}
        return openai.named_event(msgspec.json.encode(told), path)
    error = UpstreamError(f"The server answered with HTTP {status} where a stream was asked for.")
    return openai.error_event(error, path)
