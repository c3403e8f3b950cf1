"""What wins over every file: the schema's own variables, and the command line's options.

Each becomes a layer of one value that is merged like a file, so that a bad one is a problem like
any other, under the variable's or option's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rolemesh.config.shape import Section
from rolemesh.config.tree import Leaf, Map, Origin, Path, Tree


def settings(
    shape: Section, options: Mapping[tuple[str, str], str], env: Mapping[str, str]
) -> Iterator[Map]:
    """The layers above the files, the strongest last.

    `options`: (dotted key, name of the option) -> text.
    """
    for path, variable in _variables(shape):
        if variable in env:
            yield _layer(path, Origin(variable), env[variable])
    for (dotted, option), text in options.items():
        yield _layer(tuple(dotted.split(".")), Origin(option), text)


def _variables(shape: Section, above: Path = ()) -> Iterator[tuple[Path, str]]:
    for setting in shape.keys.values():
        path = (*above, setting.name)
        if setting.about.variable is not None:
            yield path, setting.about.variable
        if isinstance(setting.shape, Section):
            yield from _variables(setting.shape, path)


def _layer(path: Path, origin: Origin, text: str) -> Map:
    literal = text.replace("${", "$${")  # its value is final: nothing in it is a variable
    tree: Tree = Leaf(literal, literal, origin)
    for step in reversed(path):
        tree = Map({str(step): tree}, origin)
    return tree if isinstance(tree, Map) else Map({}, origin)
