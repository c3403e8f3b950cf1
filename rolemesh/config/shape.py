"""What a schema asks for, as data: the shape of an attrs class, read off its annotations.

Schemas are plain frozen attrs classes, each field annotated with its kind, and with `about` as its
metadata. Walks over the shape: `expand` (which text is read as YAML), `structure` (tree to values),
`diff`, `render` and `reference`.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import attrs
from attrs import frozen

from rolemesh.config.kinds import BOOLEAN, Kind, words
from rolemesh.config.tree import Leaf, Path, Step, Tree, is_null

_METADATA = "rolemesh"


@frozen
class Inline:
    """Mark of a field whose class's keys stand in the section itself, not in one below it."""


@frozen
class ReadAs:
    """Mark of a field whose keys are described by `fields`, a class with the same field names."""

    fields: type


@frozen
class OneOf:
    """Mark of a section whose key `tag` says which of the classes it is; left out: the first."""

    tag: str
    cases: Mapping[str, type]


@frozen
class LoneOr:
    """Mark of a list, each item of the kind `item`, in whose place one scalar may stand: `lone`
    reads it, into a word of its own or a tuple of one item."""

    lone: Kind
    item: Kind


@frozen
class Scalar:
    kind: Kind


@frozen
class Items:
    """A list. `lone`: what reads a scalar in its place, where one may stand there."""

    item: Shape
    lone: Kind | None = None


@frozen
class Named:
    """A mapping keyed by name."""

    name: Kind
    entry: Shape


@frozen
class Json:
    """Any JSON value."""


@frozen
class Section:
    """Keys, each with its shape. `make` takes the fields of `cls` by name. `shorthand` is the key
    that a string in the section's place stands for."""

    cls: type
    make: Callable[..., Any]
    keys: Mapping[str, Setting]
    inlined: Mapping[str, Section]
    shorthand: str | None

    def get(self, value: Any, name: str) -> Any:
        """The key `name` of a section's value, wherever the class keeps it."""
        for field_name, part in self.inlined.items():
            if name in part.keys:
                return part.get(getattr(value, field_name), name)
        return getattr(value, name)


@frozen
class Choice:
    tag: str
    cases: Mapping[str, Section]

    def case(self, tag: Tree | None) -> Section | None:
        """The case that a tag names; without one, the first."""
        if tag is None or is_null(tag):
            return next(iter(self.cases.values()))
        return self.cases.get(tag.text) if isinstance(tag, Leaf) else None


Shape = Scalar | Items | Named | Json | Section | Choice


@frozen
class About:
    """What a field's annotation and default do not say.

    `variable`: an environment variable that wins over every file. `unset`: what happens when the
    key is left out, where that is more than its default.
    """

    doc: str
    variable: str | None
    unset: str | None


@frozen
class Setting:
    """One key of a section."""

    name: str
    shape: Shape
    about: About
    default: Any
    required: bool
    secret: bool

    @property
    def twin(self) -> str:
        """The key that names a file to read this one from, where this one is a secret."""
        return f"{self.name}_file"


def about(doc: str, *, variable: str | None = None, unset: str | None = None) -> dict[str, About]:
    """The metadata of a schema's field. A field that has no `repr` is a secret."""
    return {_METADATA: About(doc, variable, unset)}


def section_of(cls: Any, make: Callable[..., Any] | None = None) -> Section:
    """The shape of a schema's class."""
    return _section_of(cls, make or cls)


@functools.cache
def _section_of(cls: Any, make: Callable[..., Any]) -> Section:
    hints = typing.get_type_hints(cls, include_extras=True)
    keys: dict[str, Setting] = {}
    inlined: dict[str, Section] = {}
    for attribute in attrs.fields(cls):
        hint = hints[attribute.name]
        if _is_inline(hint):
            inlined[attribute.name] = section_of(get_args(hint)[0])
            keys.update(inlined[attribute.name].keys)
        else:
            keys[attribute.name] = _setting(attribute, hint)
    return Section(cls, make, keys, inlined, getattr(cls, "SHORTHAND", None))


def _setting(attribute: attrs.Attribute[Any], hint: Any) -> Setting:
    default: Any = attribute.default
    required = default is attrs.NOTHING
    if required:
        default = None
    elif hasattr(default, "factory"):
        default = default.factory()
    return Setting(
        name=attribute.name,
        shape=shape_of(hint),
        about=attribute.metadata[_METADATA],
        default=default,
        required=required,
        secret=attribute.repr is False,
    )


def shape_of(hint: Any) -> Shape:
    if hint is Any:
        return Json()
    if hint is bool:
        return Scalar(BOOLEAN)
    if attrs.has(hint):
        return section_of(hint)
    if get_origin(hint) is typing.Annotated:
        return _annotated(hint)
    return _generic(get_origin(hint), get_args(hint), hint)


def shape_below(shape: Shape | None, step: Step) -> Shape | None:
    """What belongs in a part of a place of this shape. None: nothing is known of it."""
    match shape:
        case Section() if step in shape.keys:
            return shape.keys[str(step)].shape
        case Choice():
            # An override need not repeat the tag. Cases that share a key agree on its shape.
            cases = (shape_below(case, step) for case in shape.cases.values())
            return next((found for found in cases if found is not None), None)
        case Items() if isinstance(step, int):
            return shape.item
        case Named() if isinstance(step, str):
            return shape.entry
        case Json():
            return shape
        case _:
            return None


def known_path(path: Path, shape: Shape) -> Path:
    """The path, or its part before a key that may be no key but a secret: `- SECRET: 1` in a list
    whose items may be written as text."""
    below: Shape | None = shape
    for place, step in enumerate(path):
        above, below = below, shape_below(below, step)
        if below is None and _takes_secrets(above):
            return path[:place]
    return path


def _takes_secrets(shape: Shape | None) -> bool:
    item = shape.item if isinstance(shape, Items) else shape
    return isinstance(item, Section) and item.shorthand is not None


def _annotated(hint: Any) -> Shape:
    cls, *marks = get_args(hint)
    for mark in marks:
        if isinstance(mark, Kind):
            return Scalar(mark)
        if isinstance(mark, ReadAs):
            return section_of(mark.fields, cls)
        if isinstance(mark, LoneOr):
            return Items(Scalar(mark.item), mark.lone)
        if isinstance(mark, OneOf):
            return Choice(mark.tag, {tag: section_of(case) for tag, case in mark.cases.items()})
    raise TypeError(f"no shape for {hint}")


def _generic(origin: Any, args: tuple[Any, ...], hint: Any) -> Shape:
    if origin is Literal:
        return Scalar(words(*args))
    if origin is tuple:
        return Items(shape_of(args[0]))
    if origin is Mapping:
        name = shape_of(args[0])
        if isinstance(name, Scalar):
            return Named(name.kind, shape_of(args[1]))
    if origin in (UnionType, typing.Union):
        # Null is never a value: it means "not written". Only the other side has a shape.
        (inner,) = (arg for arg in args if arg is not type(None))
        return shape_of(inner)
    raise TypeError(f"no shape for {hint}")


def _is_inline(hint: Any) -> bool:
    if get_origin(hint) is not typing.Annotated:
        return False
    return any(isinstance(mark, Inline) for mark in get_args(hint)[1:])
