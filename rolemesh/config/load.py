"""Loading a configuration: files in, one frozen value out. The only module that knows YAML.

YAML is read into trees here, with the line of every part; what follows is `assemble`'s. `load`
takes any `Schema`, `load_gateway` the gateway's, `load_node` a node's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from attrs import Factory, define, evolve

from rolemesh.config import checks_gateway, checks_node
from rolemesh.config.assemble import Assembly, Loaded, Schema, all_problems
from rolemesh.config.expand import Expander
from rolemesh.config.files import Search, Sources, find, read_config
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_node import NodeFile
from rolemesh.config.shape import section_of
from rolemesh.config.tree import (
    MAX_DEPTH,
    Leaf,
    Map,
    Origin,
    Path,
    Problem,
    Seq,
    Tree,
    from_plain,
    is_null,
)

T = TypeVar("T")

# The C parser is ten times faster and gives the same events.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_MAX_PARTS = 100_000  # aliases are written out: this bounds what a few lines of them can become
_MAX_INT_DIGITS = 100
_TAGS = ("str", "int", "float", "bool", "null", "map", "seq", "merge")
_KNOWN_TAGS = frozenset({None, *(f"tag:yaml.org,2002:{tag}" for tag in _TAGS)})

# The core schema of YAML 1.2: no octal surprise, no sexagesimal ports, `no` is a word.
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_QUOTED_STYLES = frozenset("'\"|>")
_QUOTED = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"")


GATEWAY = Schema(
    GatewayFile,
    Search(
        "ROLE_MESH_CONFIG",
        "ROLE_MESH_CONFIG_OVERRIDE",
        ("etc/gateway.yaml", "configs/models.yaml", "/etc/rolemesh/gateway.yaml"),
        "rolemesh init gateway",
    ),
    checks_gateway.check,
    checks_gateway.guard,
)

NODE = Schema(
    NodeFile,
    Search(
        "ROLE_MESH_NODE_CONFIG",
        "ROLE_MESH_NODE_CONFIG_OVERRIDE",
        ("etc/node.yaml", "/etc/rolemesh/node.yaml"),
        "rolemesh init node",
    ),
    checks_node.check,
    checks_node.guard,
)


def find_gateway(config: str | None, overrides: Sequence[str], env: Mapping[str, str]) -> Sources:
    return find(GATEWAY.search, config, overrides, env)


def load_gateway(sources: Sources, env: Mapping[str, str]) -> Loaded[GatewayFile]:
    return load(GATEWAY, sources, env)


def find_node(config: str | None, overrides: Sequence[str], env: Mapping[str, str]) -> Sources:
    return find(NODE.search, config, overrides, env)


def load_node(sources: Sources, env: Mapping[str, str]) -> Loaded[NodeFile]:
    return load(NODE, sources, env)


def load(schema: Schema[T], sources: Sources, env: Mapping[str, str]) -> Loaded[T]:
    """Raises ConfigError, which lists every problem as `file:line: key.path: message`."""
    layers, problems = _layers(schema, sources)
    if len(layers) < len(sources.files):
        # What stands in a file that is no YAML cannot be guessed.
        raise all_problems(problems, section_of(schema.cls), sources.files)
    assembly = Assembly(schema, Expander(env, read_value), problems)
    return assembly.load(layers, sources)


def _layers(schema: Schema[Any], sources: Sources) -> tuple[list[Map], list[Problem]]:
    layers: list[Map] = []
    problems: list[Problem] = []
    for number, path in enumerate(sources.files):
        try:
            text = read_config(path, owned=sources.searched and number == 0)
            tree, found = parse(text, path)
        except ValueError as error:
            problems.append(Problem(Origin(path), (), str(error)))
        except yaml.YAMLError as error:
            problems.append(_syntax_problem(error, path))
        else:
            problems += found
            if is_null(tree):  # as if nothing was written
                tree = Map({}, tree.origin)
            if not isinstance(tree, Map):
                problems.append(Problem(tree.origin, (), "the file must be a mapping of keys"))
            elif number == 0 and not tree.entries and not found:
                # Cut off while it was written, say. Taken for a configuration, it would have no
                # models and no keys.
                message = f"is empty: `{schema.search.first}` writes a first configuration"
                problems.append(Problem(Origin(path), (), message))
            else:
                layers.append(tree)
    return layers, problems


def read_value(text: str, origin: Origin) -> Tree:
    """A variable's text as JSON or YAML. Raises ValueError, silent about the text."""
    try:
        return from_plain(_json(text), origin)
    except (ValueError, RecursionError):
        pass
    try:
        tree, problems = parse(text, origin.file, origin.line)
    except yaml.YAMLError:
        raise ValueError from None
    if problems:
        raise ValueError
    return tree


def _json(text: str) -> Any:
    def no_constant(_: str) -> None:
        raise ValueError

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    return json.loads(text, parse_constant=no_constant, object_pairs_hook=no_duplicates)


def parse(text: str, file: str, line: int | None = None) -> tuple[Tree, list[Problem]]:
    """A YAML text as a tree, and what is wrong with it short of its syntax.

    `line`: the line that all of it is said to be in. Raises yaml.YAMLError or ValueError.
    """
    reader = _Reader(yaml.parse(text, Loader=_Loader), file, line)
    return reader.document(), reader.problems


@define
class _Reader:
    """YAML's events to a tree. `line` None: each part's own.

    Events, because PyYAML's own composer falls over deep nesting: with libyaml, by a crash.
    """

    events: Iterator[Any]
    file: str
    line: int | None
    problems: list[Problem] = Factory(list)
    _anchors: dict[str, Tree] = Factory(dict)
    _parts: int = 0

    def document(self) -> Tree:
        """The text's one document; an empty text is an empty mapping."""
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Map({}, Origin(self.file, self.line or 1))
        tree = self._tree(next(self.events), (), None)
        next(self.events)
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _flaw(event, "a second document begins")
        return tree

    def _tree(self, event: Any, path: Path, origin: Origin | None) -> Tree:
        """`origin`: the line of the key, for what belongs to one."""
        origin = origin or self._origin(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, origin)
        if event.tag not in _KNOWN_TAGS:
            self.problems.append(Problem(origin, path, "YAML tags are not supported here"))
        self._bound(parts=1, depth=len(path))
        tree = self._node(event, path, origin)
        if event.anchor is not None:
            self._anchors[event.anchor] = tree
        return tree

    def _node(self, event: Any, path: Path, origin: Origin) -> Tree:
        if isinstance(event, yaml.ScalarEvent):
            return Leaf(_scalar(event), event.value, origin)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Tree] = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                items.append(self._tree(item, (*path, len(items)), None))
            return Seq(tuple(items), origin)
        return Map(self._entries(path), origin)

    def _entries(self, path: Path) -> dict[str, Tree]:
        own: dict[str, Tree] = {}
        merged: dict[str, Tree] = {}
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            origin = self._origin(key)
            if not isinstance(key, yaml.ScalarEvent):
                self._tree(key, (*path, "?"), None)
                self._tree(next(self.events), (*path, "?"), None)
                self.problems.append(Problem(origin, path, "a key must be plain text"))
                continue
            value = self._tree(next(self.events), (*path, key.value), origin)
            if key.value == "<<" and key.style not in _QUOTED_STYLES:
                merged = self._merged(value, path, origin) | merged
            elif key.value in own:
                message = f"is written twice in one mapping; first at {own[key.value].origin}"
                self.problems.append(Problem(origin, (*path, key.value), message))
            else:
                own[key.value] = value
        return merged | own

    def _merged(self, tree: Tree, path: Path, origin: Origin) -> dict[str, Tree]:
        """YAML's merge key, `<<: *anchor`: of a list of mappings the first has the last word."""
        entries: dict[str, Tree] = {}
        for source in tree.items if isinstance(tree, Seq) else (tree,):
            if isinstance(source, Map):
                entries = {**source.entries, **entries}
            else:
                self.problems.append(Problem(origin, path, "<< takes a mapping, or a list of them"))
        return entries

    def _alias(self, event: Any, path: Path, origin: Origin) -> Tree:
        """What the anchor names, once more. An alias within its own anchor has nothing to name."""
        if event.anchor not in self._anchors:
            raise _flaw(event, "an alias without an anchor before it")
        tree = self._anchors[event.anchor]
        parts, height = _extent(tree)
        self._bound(parts, depth=len(path) + height)
        return evolve(tree, origin=origin)

    def _bound(self, parts: int, depth: int) -> None:
        self._parts += parts
        if self._parts > _MAX_PARTS:
            raise ValueError(f"has more than {_MAX_PARTS} values, its aliases written out")
        if depth > MAX_DEPTH:
            raise ValueError("is nested too deep")

    def _origin(self, event: Any) -> Origin:
        return Origin(self.file, event.start_mark.line + 1 if self.line is None else self.line)


def _extent(tree: Tree) -> tuple[int, int]:
    """How many parts a tree has, and how many levels below its top."""
    below = list(tree.entries.values()) if isinstance(tree, Map) else []
    extents = [_extent(part) for part in (tree.items if isinstance(tree, Seq) else below)]
    parts = 1 + sum(parts for parts, _ in extents)
    return parts, max((height + 1 for _, height in extents), default=0)


def _flaw(event: Any, says: str) -> yaml.YAMLError:
    return yaml.composer.ComposerError(problem=says, problem_mark=event.start_mark)


def _scalar(event: Any) -> str | int | float | bool | None:
    text: str = event.value
    if event.style in _QUOTED_STYLES:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text) and len(text) <= _MAX_INT_DIGITS:
        return int(text)
    if _BASED_INT.fullmatch(text) and len(text) <= _MAX_INT_DIGITS:
        return int(text, 0)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def _syntax_problem(error: yaml.YAMLError, path: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or "a character that YAML does not allow"
    # What the parser quotes may be a piece of a secret.
    message = "is not valid YAML: " + _QUOTED.sub("...", str(said))
    return Problem(Origin(path, mark.line + 1 if mark else 0), (), message)
