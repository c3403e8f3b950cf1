"""Checks of the values in a message, each of which says in a sentence what is wrong, and where.

Used by the other modules of this room. `place` is the path of the field (`served_models[0].roles`):
it is the error's `param`, and its message begins with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rolemesh.errors import InvalidValue


def wrong(place: str, words: str) -> InvalidValue:
    """The error to raise for a field: `words` go on after its name."""
    return InvalidValue(f"{place} {words}.", param=place)


def required(fields: Mapping[str, Any], name: str, within: str = "") -> Any:
    """The value of a field that must be there and not null."""
    value = fields.get(name)
    if value is None:
        raise wrong(f"{within}.{name}" if within else name, "is required")
    return value


def mapping(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(place, "must be an object")
    return value


def entries(value: object, place: str, most: int) -> Iterator[tuple[str, object]]:
    """The entries of a list, each with its place."""
    if not isinstance(value, list):
        raise wrong(place, "must be a list")
    if len(value) > most:
        raise wrong(place, f"must not have more than {most} entries")
    return ((f"{place}[{index}]", entry) for index, entry in enumerate(value))


def printable(value: object, place: str, longest: int) -> str:
    """A string that can be shown: no control characters, no line ends, no lone surrogates."""
    if not isinstance(value, str):
        raise wrong(place, "must be a string")
    if not 0 < len(value) <= longest or not value.isprintable() or value.isspace():
        raise wrong(place, f"must have 1 to {longest} printable characters")
    return value


def integer(value: object, place: str, most: int) -> int | None:
    """A whole number from 0, or None where it is not told."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise wrong(place, f"must be a whole number from 0 to {most}")
    return value


def number(value: object, place: str, *, negative: bool = False) -> float | None:
    """A number, or None where it is not told."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(place, "must be a number")
    if not -(2**63) <= value <= 2**64:  # NaN neither
        raise wrong(place, "is out of range")
    if value < 0 and not negative:
        raise wrong(place, "must not be negative")
    return value
