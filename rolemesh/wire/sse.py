"""Event streams: whole events are passed on at once, half an event waits for its end.

Fed by the relay with an upstream's body, chunk by chunk; it writes on what `feed` returns. Lines
end in CR, LF or CRLF, mixed as it comes (WHATWG HTML, section 9.2.5), and a blank line ends an
event. No byte is changed, dropped or added. An event beyond 64 KiB is passed on as it comes, so
that a stream cannot fill the memory: `mid_event` then says that the client has half of one.
"""

from __future__ import annotations

import re

import msgspec

MAX_HELD_BYTES = 64 * 1024
MAX_WHOLE_BYTES = 8192  # of a chunk that is looked at as a whole

# Every way in which a blank line, seen whole, can end. Data that ends so ends an event.
_BLANK = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n", b"\n\r")
_BLANK_FRAMED = tuple(blank + b"\r\n" for blank in _BLANK)
_NO_START = b""
_DONE = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\]")
_DONE_LATER = re.compile(rb"[\r\n]data: ?\[DONE\]")  # the first bytes are the middle of a line


class EventSplitter:
    """The state of one stream.

    `mid_event`: part of an unfinished event was passed on. `done`: `data: [DONE]` was passed on.
    `error_told`, set by the relay: the upstream's own error event was the last.
    """

    __slots__ = ("_held", "_last", "done", "error_told", "mid_event")

    def __init__(self) -> None:
        self.mid_event = False
        self.done = False
        self.error_told = False
        self._held = bytearray()
        self._last = b""  # the last byte of the unfinished event, held or passed on

    @property
    def between_events(self) -> bool:
        return not self._last

    @property
    def held(self) -> bytes:
        """The beginning of an unfinished event that no client has seen."""
        return bytes(self._held)

    def feed(self, data: bytes) -> bytes:
        """All whole events so far, perhaps none."""
        if not self._last and data.endswith(_BLANK):
            self._look_for_done(data)
            return data
        if not data:
            return b""
        end = self._end_of_events(data)
        if not end:
            return self._hold(data)
        events = b"".join((self._held, data[:end]))
        self._look_for_done(events)
        self._begin_event()
        return events + self._hold(data[end:]) if end < len(data) else events

    def flush(self) -> bytes:
        """What is held when the upstream ended the stream by itself and in order.

        Some servers leave out the last blank line: a `data: [DONE]` in there counts. Anything else
        is half an event and stays held: clients would drop it (WHATWG HTML, section 9.2.6).
        """
        rest = self.held
        self._look_for_done(rest)
        if not rest or not self.done:
            return b""
        self._held.clear()
        self.mid_event = True
        return rest

    def is_whole(self, *, needs_done: bool) -> bool:
        """Whether a stream that ends here has said all: its `[DONE]`, or, where there need be none,
        nothing but whole events."""
        return self.done or not (needs_done or self._held or self.mid_event)

    def cut_with(self, event: bytes) -> bytes:
        """What a stream that breaks off ends with: what is held is dropped for `event`.

        Behind half an event a blank line comes first, so that `event` is one of its own. Behind an
        upstream's own error nothing comes: clients shall hear one, and that one knows more.
        """
        self._held.clear()
        if self.mid_event:
            return b"\n\n" + event
        return b"" if self.error_told else event

    def _end_of_events(self, data: bytes) -> int:
        """How much of `data` belongs to whole events; 0 when it ends none."""
        before = len(self._last)
        end = _last_blank_line(self._last + data) - before
        if end > 0:
            return end
        # At the start of an event a line end alone is a blank line: a keep-alive, or the LF of a
        # CRLF whose CR has ended the event before.
        if not before and data[0] in b"\r\n":
            return 2 if data.startswith(b"\r\n") else 1
        return 0

    def _hold(self, data: bytes) -> bytes:
        """Keep the beginning of an event, or give up and return it all."""
        self._last = data[-1:]
        if self.mid_event:
            return data
        self._held += data
        if len(self._held) <= MAX_HELD_BYTES:
            return b""
        passed = self.held
        self._held.clear()
        self.mid_event = True
        return passed

    def _begin_event(self) -> None:
        self._held.clear()
        self._last = b""
        self.mid_event = False

    def _look_for_done(self, events: bytes) -> None:
        if b"[DONE]" in events and (_DONE_LATER if self.mid_event else _DONE).search(events):
            self.done = True


def ends_in_error(events: bytes) -> bool:
    """Whether the last event with data tells an error: it is named so (Anthropic, /v1/responses),
    or its data is one of OpenAI's shape, as llama-server and a node send it in a stream that they
    cannot go on with. Framing of chunks may be among the events: no field begins like its lines."""
    name, data = _last_event(events)
    if name == b"error":
        return bool(data)
    try:
        told = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(told, dict) and bool(told.get("error") or told.get("object") == "error")


def _last_event(events: bytes) -> tuple[bytes, bytes]:
    """Name and data of the last whole one that has data (WHATWG HTML, section 9.2.6)."""
    name, data = b"", []
    last = (b"", b"")
    for line in events.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.strip(b" ")
        elif not line:
            if data:
                last = name, b"\n".join(data)
            name, data = b"", []
    return last


class _Starts(dict[int, bytes]):
    """The line that a chunk begins with, by how many bytes it has, its framing included: there is
    one at most, and to look it up costs less than to make it."""

    def __missing__(self, size: int) -> bytes:
        if size > MAX_WHOLE_BYTES:
            return _NO_START
        self[size] = _NO_START
        for body in range(max(size - 8, 1), size - 4):
            line = b"%x\r\n" % body
            if len(line) + body + 2 == size:
                self[size] = line
        return self[size]


_starts = _Starts()


def whole_chunk(framed: bytes) -> int:
    """Where the events begin in `framed`, when it is one HTTP chunk just as wire/http1.chunk makes
    it, and an EventSplitter that is `between_events` would return them all and be left as it is.
    Else 0."""
    start = _starts[len(framed)]
    if framed.startswith(start) and framed.endswith(_BLANK_FRAMED) and b"[DONE]" not in framed:
        return len(start)
    return 0


def _last_blank_line(text: bytes) -> int:
    """Where the last blank line of `text` ends; -1 when there is none.

    A line end beside a line end: LF LF, CR CR or LF CR. CR LF is one line end, so the LF behind
    such a pair's CR belongs to it.
    """
    at = text.rfind(b"\n\n")
    if b"\r" in text:
        at = max(at, text.rfind(b"\r\r"), text.rfind(b"\n\r"))
    if at < 0:
        return -1
    end = at + 2
    return end + 1 if text[at + 1] == 13 and text[end : end + 1] == b"\n" else end
