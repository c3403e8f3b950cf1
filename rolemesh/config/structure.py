"""From a merged tree to the schema's values, with every problem on the way and not just the first.

Fed by `load`. A value that cannot be read leaves its default behind and its path in `lost`, so that
the rest, and the rules between keys, can still be judged; nobody sees such values but the checks.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

from attrs import Factory, define

from rolemesh.config.kinds import Kind
from rolemesh.config.shape import Choice, Items, Json, Named, Scalar, Section, Setting, Shape
from rolemesh.config.tree import (
    Bad,
    Leaf,
    Map,
    Origin,
    Path,
    Problem,
    Seq,
    Tree,
    is_null,
    nearest_origin,
    plain,
)

_LOST: Any = object()


def nearest(word: str, known: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return found[0] if found else None


@define
class Structurer:
    """`read_secret` gives the text of a secret's file, or raises ValueError."""

    read_secret: Callable[[str], str]
    problems: list[Problem] = Factory(list)
    lost: set[Path] = Factory(set)
    _kept: dict[Path, list[int]] = Factory(dict)

    def whole(self, tree: Map, shape: Section) -> Any:
        """The value of a whole configuration; None when it lacks what it needs."""
        value = self.value(tree, shape, ())
        return None if value is _LOST else value

    def _section(self, tree: Map, shape: Section, path: Path) -> Any:
        self._unknown_keys(tree, shape.keys, path)
        return self._build(tree, shape, path)

    def _build(self, tree: Map, shape: Section, path: Path) -> Any:
        inlined = {name: self._build(tree, part, path) for name, part in shape.inlined.items()}
        below = {name for part in shape.inlined.values() for name in part.keys}
        own = {name: each for name, each in shape.keys.items() if name not in below}
        values = {name: self._setting(tree, each, path) for name, each in own.items()}
        for name, each in own.items():
            if each.secret and each.twin in own:
                values[name] = self._from_twin(tree, each, values, path)
        # A section without a key that it needs is no value at all, not even to be judged.
        if any(each.required and values[name] is None for name, each in own.items()):
            return _LOST
        return shape.make(**values, **inlined)

    def _setting(self, tree: Map, setting: Setting, path: Path) -> Any:
        entry = tree.entries.get(setting.name)
        if entry is None or is_null(entry):
            if setting.required:
                self._problem(tree.origin, path, f"needs the key {setting.name}", lost=True)
            return setting.default
        value = self.value(entry, setting.shape, (*path, setting.name))
        return setting.default if value is _LOST else value

    def _from_twin(self, tree: Map, setting: Setting, values: dict[str, Any], path: Path) -> Any:
        """The secret itself, out of the file that its twin names."""
        file, here = values[setting.twin], (*path, setting.twin)
        if file is None or not isinstance(setting.shape, Scalar):
            return values[setting.name]
        origin = nearest_origin(tree, (setting.twin,))
        written = tree.entries.get(setting.name)
        if written is not None and not is_null(written):
            self._problem(origin, here, f"stands beside {setting.name}: write one of the two")
            return values[setting.name]
        try:
            text = self.read_secret(file)
        except ValueError as error:
            self._problem(origin, here, str(error), lost=True)
            return setting.default
        value = self._scalar(Leaf(text, text, origin), setting.shape, here, of="the file's text ")
        return setting.default if value is _LOST else value

    def value(self, tree: Tree, shape: Shape, path: Path) -> Any:
        """The value, or `_LOST` when a problem was noted in its place."""
        match tree, shape:
            case Bad(), _:
                return self._problem(tree.origin, path, tree.message, lost=True)
            case Leaf(), Scalar():
                return self._scalar(tree, shape, path)
            case Leaf(), Items(lone=Kind() as lone):
                return self._scalar(tree, Scalar(lone), path)
            case Seq(), Items():
                return self._items(tree, shape, path)
            case Map(), Named():
                return self._named(tree, shape, path)
            case Map(), Section():
                return self._section(tree, shape, path)
            case Leaf(), Section() if shape.shorthand is not None and not is_null(tree):
                short = Map({shape.shorthand: tree}, tree.origin)
                return self._section(short, shape, path)
            case Map(), Choice():
                return self._choice(tree, shape, path)
            case _, Json():
                return self._json(tree, path)
        return self._problem(tree.origin, path, f"must be {described(shape)}", lost=True)

    def _scalar(self, leaf: Leaf, shape: Scalar, path: Path, of: str = "") -> Any:
        if leaf.value is None:
            return self._problem(leaf.origin, path, f"must be {shape.kind.words}", lost=True)
        try:
            return shape.kind.read(leaf)
        except ValueError as error:
            message = str(error) or f"must be {shape.kind.words}"
            return self._problem(leaf.origin, path, of + message, lost=True)

    def _items(self, tree: Seq, shape: Items, path: Path) -> tuple[Any, ...]:
        read = [self.value(item, shape.item, (*path, n)) for n, item in enumerate(tree.items)]
        kept = [number for number, item in enumerate(read) if item is not _LOST]
        if len(kept) < len(read):
            self._kept[path] = kept
        return tuple(read[number] for number in kept)

    def written(self, path: Path) -> Path:
        """The path in the tree of a path in the value, whose lists lack what could not be read."""
        found: Path = ()
        for step in path:
            kept = self._kept.get(found)
            found = (*found, kept[step] if kept and isinstance(step, int) else step)
        return found

    def _named(self, tree: Map, shape: Named, path: Path) -> dict[str, Any]:
        found = {}
        for name, entry in tree.entries.items():
            if is_null(entry):
                continue
            self._scalar(Leaf(name, name, entry.origin), Scalar(shape.name), (*path, name), "name ")
            found[name] = self.value(entry, shape.entry, (*path, name))
        return {name: value for name, value in found.items() if value is not _LOST}

    def _choice(self, tree: Map, shape: Choice, path: Path) -> Any:
        tag = tree.entries.get(shape.tag)
        case = shape.case(tag)
        if case is not None:
            others = {name: kind for kind, other in shape.cases.items() for name in other.keys}
            self._unknown_keys(tree, case.keys, path, others)
            return self._build(tree, case, path)
        every = {name for case in shape.cases.values() for name in case.keys}
        self._unknown_keys(tree, every, path)
        says = tag.message if isinstance(tag, Bad) else f"must be {' or '.join(shape.cases)}"
        here = (*path, shape.tag)
        self._problem(nearest_origin(tree, (shape.tag,)), here, says, lost=True)
        return next(iter(shape.cases.values())).make()

    def _json(self, tree: Tree, path: Path) -> Any:
        try:
            value = plain(tree)
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            return self._problem(tree.origin, path, str(error), lost=True)
        return value

    def _unknown_keys(
        self, tree: Map, known: Collection[str], path: Path, elsewhere: dict[str, str] | None = None
    ) -> None:
        for name, entry in tree.entries.items():
            if name in known or (elsewhere and name in elsewhere and is_null(entry)):
                continue
            if elsewhere and name in elsewhere:
                message = f"belongs to type {elsewhere[name]} only"
            elif close := nearest(name, known):
                message = f"unknown key; the nearest is {close}"
            else:
                message = "unknown key; known here: " + ", ".join(known)
            self._problem(entry.origin, (*path, name), message)

    def _problem(self, origin: Origin, path: Path, message: str, *, lost: bool = False) -> Any:
        self.problems.append(Problem(origin, path, message))
        if lost:
            self.lost.add(path)
        return _LOST


def described(shape: Shape) -> str:
    """What belongs in a place of this shape, in words that complete "must be ..."."""
    match shape:
        case Scalar():
            return shape.kind.words
        case Items(lone=Kind(words)):
            return words
        case Items():
            return "a list such as [a, b]"
        case Section() if shape.shorthand is not None:
            return "text or a mapping of keys"
        case Named():
            return "a mapping of names"
        case Section() | Choice():
            return "a mapping of keys"
        case Json():
            return "any JSON value"
