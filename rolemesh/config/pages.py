"""The schema as pages of a reference: one per section, a row per key. Laid out by `reference`."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

from attrs import frozen

from rolemesh.config.render import scalar
from rolemesh.config.shape import Choice, Items, Named, Scalar, Section, Setting, Shape, section_of
from rolemesh.config.structure import described


@frozen
class Row:
    """A key. `default`: what holds without it."""

    name: str
    takes: str
    default: str
    doc: str


@frozen
class Page:
    """A section. `path` is where it stands: `auth.client_api_keys[]`, `models.<name>`, "" on top.
    `case` is the key and value that make it this one."""

    path: str
    case: str
    doc: str
    rows: tuple[Row, ...]


def pages(schema: type) -> list[Page]:
    return list(dict.fromkeys(_pages(section_of(schema), "", "", "")))


def _pages(section: Section, path: str, case: str, doc: str) -> Iterator[Page]:
    settings = section.keys.values()
    yield Page(path, case, doc, tuple(_row(setting) for setting in settings))
    for setting in settings:
        below = f"{path}.{setting.name}".removeprefix(".")
        yield from _below(setting.shape, below, setting.about.doc)


def _below(shape: Shape, path: str, doc: str) -> Iterator[Page]:
    match shape:
        case Section():
            yield from _pages(shape, path, "", doc)
        case Choice():
            for tag, case in shape.cases.items():
                yield from _pages(
                    case, path, f"{shape.tag}: {tag}", cleandoc(case.cls.__doc__ or "")
                )
        case Items():
            own = shape.item.cls.__doc__ if isinstance(shape.item, Section) else ""
            yield from _below(shape.item, f"{path}[]", cleandoc(own or doc))
        case Named():
            yield from _below(shape.entry, f"{path}.<name>", doc)
        case _:
            return


def _row(setting: Setting) -> Row:
    doc = setting.about.doc
    if setting.about.variable:
        doc += f" The environment variable {setting.about.variable} wins over it."
    return Row(setting.name, _takes(setting.shape), _default(setting), doc)


def _takes(shape: Shape) -> str:
    match shape:
        case Items(lone=None, item=Scalar(kind)):
            return f"a list; each {kind.words}"
        case Items(lone=None):
            return "a list"
        case _:
            return described(shape)


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    if setting.about.unset:
        return setting.about.unset
    if isinstance(setting.shape, Section) and setting.default is not None:
        return "each key's own"
    if setting.default in (None, ""):
        return "none"
    return "none" if setting.default == {} else scalar(setting.default)
