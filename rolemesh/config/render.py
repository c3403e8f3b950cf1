"""The merged configuration as YAML text, for `--check`: secrets masked, each value with its place.

Reads the checked value and the tree that it came from. What nobody wrote is shown with its default,
unless that is nothing at all. In free mappings (defaults, meta) no schema tells what is a secret:
there the key's name does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from rolemesh.config.shape import Choice, Items, Json, Named, Scalar, Section, Shape, section_of
from rolemesh.config.tree import Leaf, Map, Tree, child, is_null

MASK = "***"

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
# Rather too much than too little. Counts of tokens are no secrets: max_tokens.
_SECRET = re.compile(r"auth|bearer|cookie|credential|key|pass|pwd|secret|signature|token", re.I)
_COUNT = re.compile(r"tokens", re.I)
# Words that YAML 1.1 or 1.2 would not take for text.
_SPECIAL = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})


def render(value: Any, tree: Map) -> str:
    return "\n".join(_section(value, section_of(type(value)), tree)) + "\n"


def _section(value: Any, shape: Section, tree: Tree | None) -> Iterator[str]:
    for setting in shape.keys.values():
        written = child(tree, setting.name)
        own = shape.get(value, setting.name)
        if written is None and (setting.secret or own in (None, (), {}, "")):
            continue
        if setting.secret and not is_null(written):
            own = MASK
        yield from _entry(f"{scalar(setting.name)}:", own, setting.shape, written)


def _entry(label: str, value: Any, shape: Shape, tree: Tree | None) -> Iterator[str]:
    """`label` with a value behind it, or with lines below it."""
    lines = list(_block(value, shape, tree))
    if lines:
        yield label
        yield from (f"  {line}" for line in lines)
    elif value is None or not isinstance(shape, Section):
        place = f"  # {tree.origin}" if tree is not None else "  # default"
        yield f"{label} {scalar(value)}{place}"


def _block(value: Any, shape: Shape, tree: Tree | None) -> Iterator[str]:
    if value is None:
        return
    match shape:
        case Section():
            yield from _section(value, shape, tree)
        case Choice():
            yield from _section(value, section_of(type(value)), tree)
        case Named():
            free = isinstance(shape.entry, Json | Scalar)
            for name, entry in value.items():
                shown = _masked(name, entry) if free else entry
                yield from _entry(f"{scalar(name)}:", shown, shape.entry, child(tree, name))
        case Items() if isinstance(value, tuple) and not isinstance(tree, Leaf):
            for number, item in enumerate(value):
                yield from _item(item, shape.item, child(tree, number))
        case Scalar() | Json() | Items():
            return


def _item(value: Any, shape: Shape, tree: Tree | None) -> Iterator[str]:
    if isinstance(tree, Leaf) and isinstance(shape, Section):  # the shorthand of a secret
        yield f"- {scalar(MASK)}  # {tree.origin}"
        return
    lines = list(_block(value, shape, tree)) or list(_entry("", value, shape, tree))
    yield f"- {lines[0].lstrip()}"
    yield from (f"  {line}" for line in lines[1:])


def _masked(name: str, value: Any) -> Any:
    """The value of a key that the schema does not know, without what may be a secret."""
    if isinstance(value, dict):
        return {key: _masked(f"{name}.{key}", below) for key, below in value.items()}
    if isinstance(value, list):
        return [_masked(name, below) for below in value]
    counts = isinstance(value, int | float) and _COUNT.search(name)
    if value is None or isinstance(value, bool) or counts or not _SECRET.search(name):
        return value
    return MASK


def scalar(value: Any) -> str:
    """A value on one line of YAML: JSON, but for words that need no quotes."""
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    if value is None or isinstance(value, bool | int | float | dict | list):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"[{', '.join(scalar(item) for item in value)}]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _SPECIAL:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
