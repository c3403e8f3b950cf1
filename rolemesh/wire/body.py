"""The JSON body of a request: read `model` and `stream`, set fields, leave every other byte alone.

Fed by the conductors of the gateway and the node; `wire/registration` uses `top_level`. A body is
never parsed into objects: msgspec validates it and splits the top level only (a 1 MiB prompt costs
a third of a millisecond). What msgspec lets pass is checked here: invalid UTF-8 inside values and
duplicate top-level keys. What it refuses although RFC 8259 section 7 allows it, an escaped lone
surrogate (JavaScript cuts emoji in halves), is let pass. All of it is linear in C, for the event
loop waits meanwhile; what would cost more (top-level keys, their names) is bounded. Errors never
repeat what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Raw

from rolemesh.errors import InvalidJson, InvalidValue

MAX_KEYS = 1024  # at the top level; each costs time on the event loop
MAX_NAME = 1024  # characters of a top-level key; finding its end costs far more than a value's
# A body of this many bytes is split at once. In a bigger one the keys are counted as they come.
SMALL_BYTES = 2**16

_SPLIT = msgspec.json.Decoder(dict[str, Raw])
_STRING = msgspec.json.Decoder(str)
_NULL = Raw(b"null")
_STREAM = {b"true": True, b"false": False, b"null": False}

# Possessive: giving back white space, byte by byte, never makes a match.
_KEY = re.compile(
    rb'[ \t\n\r]*+[{,][ \t\n\r]*+"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL
)
_CLOSE = re.compile(rb"[ \t\n\r]*+(})[ \t\n\r]*+\Z")
_EMPTY = re.compile(rb"[ \t\n\r]*+\{[ \t\n\r]*+(})[ \t\n\r]*+\Z")
_ESCAPE = re.compile("surrogate|hex escape|truncated")  # what msgspec says of a lone one
_TOO_DEEP = "The request body is nested too deeply."
_BYTE = re.compile(r"\(byte (\d+)\)")


class _Name(str):
    """A top-level key of a big body, seen while the body is read."""

    __slots__ = ()


class Body(NamedTuple):
    """A request's body. `model` None: missing or null.

    `model_at` is where the value of `model` begins (-1: no such key), `close_at` where the brace
    that ends the object is.
    """

    raw: bytes
    fields: Mapping[str, Raw]
    model: str | None
    stream: bool
    model_at: int
    close_at: int


def parse(data: bytes) -> Body:
    """Raises InvalidJson, or InvalidValue with `param` "model" or "stream"."""
    fields, model_at, close_at = _split(data)
    return Body(data, fields, _model(fields), _stream(fields), model_at, close_at)


def rewrite(body: Body, model: str, defaults: Mapping[str, bytes]) -> bytes:
    """The body with this `model`, and with those defaults (key to JSON text) that it does not set.

    Returns `body.raw` itself when nothing changes. `model` among the defaults is passed over:
    whoever chose `model` has considered it.
    """
    if body.model == model and not defaults:
        return body.raw
    fields = body.fields
    added = [
        msgspec.json.encode(key) + b":" + text
        for key, text in defaults.items()
        if key not in fields and key != "model"
    ]
    if body.model == model and not added:
        return body.raw
    raw, start, close = body.raw, body.model_at, body.close_at
    parts = []
    if body.model == model:
        parts.append(raw[:close])
    elif start < 0:
        parts.append(raw[:close])
        added.insert(0, b'"model":' + msgspec.json.encode(model))
    else:
        end = start + _size(fields["model"])
        parts += (raw[:start], msgspec.json.encode(model), raw[end:close])
    if added:
        parts += (b"," if fields else b"", b",".join(added))
    parts.append(raw[close:])
    return b"".join(parts)


def top_level(data: bytes) -> dict[str, Raw]:
    """The top-level fields of a JSON object. Raises InvalidJson."""
    return _split(data)[0]


def _model(fields: Mapping[str, Raw]) -> str | None:
    raw = fields.get("model")
    if raw is None:
        return None
    if raw == _NULL:
        return None
    try:
        return _STRING.decode(raw)
    except msgspec.DecodeError:  # another type, or half of a character
        raise InvalidValue("model must be a string.", param="model") from None


def _stream(fields: Mapping[str, Raw]) -> bool:
    raw = fields.get("stream")
    if raw is None:
        return False
    stream = _STREAM.get(bytes(raw))
    if stream is None:
        raise InvalidValue("stream must be true or false.", param="stream")
    return stream


def _split(data: bytes) -> tuple[dict[str, Raw], int, int]:
    """The fields, where the value of `model` begins, and where the closing brace is."""
    if not data.isascii():
        _check_utf8(data)
    try:
        fields = _decode(data)
    except msgspec.DecodeError as error:
        fields = _with_lone_surrogates(data, error)
    except RecursionError:
        raise InvalidJson(_TOO_DEEP) from None
    places = _compact(data, fields)
    if places is not None:
        return fields, *places
    starts, close_at = _walk(data, fields)
    return fields, starts.get("model", -1), close_at


def _check_utf8(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise InvalidJson("The request body is not valid UTF-8.") from None


def _decode(data: bytes) -> dict[str, Raw]:
    """Raises msgspec.DecodeError, RecursionError, and InvalidJson beyond the bounds."""
    if len(data) <= SMALL_BYTES:
        return _SPLIT.decode(data)
    numbers = iter(range(MAX_KEYS))

    def see(_: type, name: str) -> _Name:
        if next(numbers, None) is None:
            raise _too_many_keys()
        if len(name) > MAX_NAME:
            raise _long_name()
        return _Name(name)

    fields = msgspec.json.decode(data, type=dict[_Name, Raw], dec_hook=see)
    return {str(name): value for name, value in fields.items()}


def _with_lone_surrogates(data: bytes, error: msgspec.DecodeError) -> dict[str, Raw]:
    """Split a copy in which every escape \\ud... is \\u9..., a character: no place changes, and no
    key becomes one that is read here."""
    if not _ESCAPE.search(str(error)):
        raise _invalid(error) from None
    masked = data.replace(rb"\\", b"..").replace(rb"\ud", rb"\u9").replace(rb"\uD", rb"\u9")
    try:
        fields = _decode(masked)
    except msgspec.DecodeError as again:
        raise _invalid(again) from None
    except RecursionError:
        raise InvalidJson(_TOO_DEEP) from None
    starts, _ = _walk(masked, fields)
    return {name: Raw(data[at : at + _size(fields[name])]) for name, at in starts.items()}


def _invalid(error: msgspec.DecodeError) -> InvalidJson:
    """msgspec's own words stay out of it, but for the place."""
    if isinstance(error, msgspec.ValidationError):
        return InvalidJson("The request body must be a JSON object.")
    place = _BYTE.search(str(error))
    where = f" (at byte {place[1]})" if place else ""
    return InvalidJson(f"The request body is not valid JSON{where}.")


def _compact(data: bytes, fields: Mapping[str, Raw]) -> tuple[int, int] | None:
    """The places by arithmetic, when nothing but the fields themselves fits into the data.

    No key can be written in fewer bytes than its name and two quotes. So when the fields without
    any space fill the data, there is no space, no escape in a key and no duplicate.
    """
    if not 0 < len(fields) <= MAX_KEYS:
        return None
    at, model_at = 1, -1
    for name, value in fields.items():
        if name == "model":
            model_at = at + 8
        length = len(name)
        if length > MAX_NAME:
            return None
        at += length + 4 + len(memoryview(value))
    if at != len(data):
        return None
    return model_at, at - 1


def _walk(data: bytes, fields: Mapping[str, Raw]) -> tuple[dict[str, int], int]:
    """Where each value begins, and where the closing brace is. Raises InvalidJson for a duplicate.

    The fields stand in the order of the text, unless a key came twice: msgspec then keeps the
    place of the first and the value of the last. Of two different JSON values none is the other's
    beginning up to a comma or a brace, so the first departure from the text is always seen.
    """
    if len(fields) > MAX_KEYS:
        raise _too_many_keys()
    starts = {}
    end = 0
    for name, value in fields.items():
        if len(name) > MAX_NAME:
            raise _long_name()
        key = _KEY.match(data, end)
        text = bytes(value)
        if key is None or not data.startswith(text, key.end()):
            raise _duplicate()
        starts[name] = start = key.end()
        end = start + len(text)
    close = (_CLOSE if fields else _EMPTY).match(data, end)
    if close is None:
        raise _duplicate()
    return starts, close.start(1)


def _size(value: Raw) -> int:
    return memoryview(value).nbytes


def _duplicate() -> InvalidJson:
    return InvalidJson("The request body repeats a top-level key.")


def _too_many_keys() -> InvalidJson:
    return InvalidJson(f"The request body has more than {MAX_KEYS} top-level keys.")


def _long_name() -> InvalidJson:
    return InvalidJson(f"The request body has a top-level key of more than {MAX_NAME} characters.")
