"""Environment variables in a configuration: `${NAME}`, `${NAME:-fallback}`, and `$${` for `${`.

Works on one file's tree, before it is merged, with the schema's shape beside it: a field that wants
text takes the result as it is; for any other the result is read as YAML or JSON. What cannot be
expanded becomes `Bad`, a problem only if no later file replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from attrs import frozen

from rolemesh.config.shape import Json, Scalar, Section, Shape, shape_below
from rolemesh.config.tree import Bad, Leaf, Map, Origin, Seq, Tree

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH_START = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)(?=/|$)")
_DEEPEST_FALLBACK = 8

Read = Callable[[str, Origin], Tree]  # YAML or JSON text -> tree; raises ValueError


def substitute(text: str, env: Mapping[str, str], depth: int = 0) -> str:
    """`text` with its variables replaced. As in a shell, `:-` also covers an empty variable.

    Raises ValueError, whose message holds names but no values.
    """
    if depth > _DEEPEST_FALLBACK:
        raise ValueError("has fallbacks within fallbacks, too deep")
    parts: list[str] = []
    at = 0
    while (begin := text.find("${", at)) >= 0:
        if begin > at and text[begin - 1] == "$":
            parts.append(text[at : begin - 1] + "${")
            at = begin + 2
            continue
        end = _closing_brace(text, begin + 2)
        parts.append(text[at:begin] + _variable(text[begin + 2 : end], env, depth))
        at = end + 1
    return "".join(parts) + text[at:]


def _closing_brace(text: str, at: int) -> int:
    depth = 1
    for place in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError("has '${' without its '}' (a literal '${' is written '$${')")


def _variable(inner: str, env: Mapping[str, str], depth: int) -> str:
    name, has_fallback, fallback = inner.partition(":-")
    if not _NAME.fullmatch(name):
        raise ValueError("has '${' without a variable's name (a literal '${' is written '$${')")
    value = env.get(name)
    if has_fallback and not value:
        return substitute(fallback, env, depth + 1)
    if value is None:
        raise ValueError(f"needs the environment variable {name}, which is not set")
    return value


@frozen
class Expander:
    env: Mapping[str, str]
    read: Read

    def section(self, tree: Map, shape: Shape | None) -> Map:
        """`shape` None: nothing is known of this part (an unknown key), so it stays as it is."""
        entries = {
            name: self.expand(entry, shape_below(shape, name))
            for name, entry in tree.entries.items()
        }
        return Map(entries, tree.origin)

    def expand(self, tree: Tree, shape: Shape | None) -> Tree:
        match tree:
            case Leaf():
                return tree if shape is None else self._leaf(tree, shape)
            case Seq():
                below = shape_below(shape, 0)
                return Seq(tuple(self.expand(item, below) for item in tree.items), tree.origin)
            case Map():
                return self.section(tree, shape)
            case Bad():
                return tree

    def _leaf(self, leaf: Leaf, shape: Shape) -> Tree:
        if not isinstance(leaf.value, str):
            return leaf
        try:
            text = substitute(leaf.text, self.env)
            if isinstance(shape, Scalar) and shape.kind.path:
                text = _PATH_START.sub(lambda match: _variable(match[1], self.env, 0), text, 1)
        except ValueError as error:
            return Bad(str(error), leaf.origin)
        as_text = Leaf(text, text, leaf.origin)
        # An empty variable is a mistake to be reported, not YAML's null.
        if not text.strip() or _wants_text(shape, leaf.text):
            return as_text
        try:
            return self.read(text, leaf.origin)
        except ValueError:
            return as_text


def _is_one_variable(text: str) -> bool:
    return text.startswith("${") and _closing_brace(text, 2) == len(text) - 1


def _wants_text(shape: Shape, written: str) -> bool:
    if isinstance(shape, Json):
        # Where any value will do, a variable by itself says what it is; all else is text.
        return not _is_one_variable(written)
    if isinstance(shape, Scalar):
        return shape.kind.text
    return isinstance(shape, Section) and shape.shorthand is not None
