"""A configuration file as a tree whose every part knows where it was written.

`load` makes trees out of YAML, `expand` puts the environment in, `merge` lays one over the other,
`structure` turns the result into the schema's values. Nothing here knows YAML or a schema.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

Step = str | int
Path = tuple[Step, ...]  # of keys and list indices, from the top

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_:/-]+")
_SHOWN_CHARACTERS = 80
MAX_DEPTH = 64


@frozen
class Origin:
    """Where something was written: a file and line, or a variable or option (line 0)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def directory(self) -> str:
        """What a relative path is relative to."""
        return os.path.dirname(self.file) if self.line else os.getcwd()


@frozen
class Leaf:
    """A scalar: what YAML makes of it, and the text as it stands, for fields that want text."""

    value: str | int | float | bool | None = field(repr=False)
    text: str = field(repr=False)
    origin: Origin


@frozen
class Bad:
    """A value that could not be had. It is a problem only where no later file replaces it."""

    message: str
    origin: Origin


@frozen
class Seq:
    items: tuple[Tree, ...]
    origin: Origin


@frozen
class Map:
    entries: Mapping[str, Tree]
    origin: Origin


Tree = Leaf | Bad | Seq | Map


@frozen
class Problem:
    """One line of a configuration error. The message never repeats a value: it may be a secret."""

    origin: Origin
    path: Path
    message: str

    def __str__(self) -> str:
        path = f"{shown_path(self.path)}: " if self.path else ""
        return f"{self.origin}: {path}{self.message}"


def is_null(tree: Tree | None) -> bool:
    return isinstance(tree, Leaf) and tree.value is None


def shown_key(key: str) -> str:
    """A key as messages show it: quoted where it is not a plain word, cut where it is long."""
    if len(key) > _SHOWN_CHARACTERS:
        key = key[:_SHOWN_CHARACTERS] + "..."
    if _PLAIN_KEY.fullmatch(key):
        return key
    return json.dumps(key, ensure_ascii=not key.isprintable())


def shown_path(path: Path) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{shown_key(step)}" for step in path)
    return text.removeprefix(".")


def child(tree: Tree | None, step: Step) -> Tree | None:
    if isinstance(tree, Map) and isinstance(step, str):
        return tree.entries.get(step)
    if isinstance(tree, Seq) and isinstance(step, int) and step < len(tree.items):
        return tree.items[step]
    return None


def at(tree: Tree | None, path: Path) -> Tree | None:
    for step in path:
        tree = child(tree, step)
    return tree


def nearest_origin(tree: Tree, path: Path) -> Origin:
    """Where `path` was written, or the innermost section around it that was."""
    for step in path:
        below = child(tree, step)
        if below is None:
            break
        tree = below
    return tree.origin


def plain(tree: Tree) -> Any:
    """The tree as JSON values. Raises ValueError where a part of it could not be had."""
    match tree:
        case Leaf():
            return tree.value
        case Seq():
            return [plain(item) for item in tree.items]
        case Map():
            return {name: plain(entry) for name, entry in tree.entries.items()}
        case Bad():
            raise ValueError(tree.message)


def from_plain(value: Any, origin: Origin, depth: int = 0) -> Tree:
    """JSON values as a tree, all of it from one place. Raises ValueError beyond MAX_DEPTH."""
    if depth > MAX_DEPTH:
        raise ValueError("is nested too deep")
    if isinstance(value, dict):
        entries = {name: from_plain(entry, origin, depth + 1) for name, entry in value.items()}
        return Map(entries, origin)
    if isinstance(value, list):
        return Seq(tuple(from_plain(item, origin, depth + 1) for item in value), origin)
    text = value if isinstance(value, str) else json.dumps(value)
    return Leaf(value, text, origin)
