"""From the trees of all files to one checked value: expand, guard, merge, structure, check.

Fed by `load`, for any schema. The outcome is one frozen value, or a ConfigError that lists every
problem, a line each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from attrs import Factory, evolve, field, frozen

from rolemesh.config.expand import Expander
from rolemesh.config.files import Search, Sources, read_secret
from rolemesh.config.merge import merge
from rolemesh.config.render import render
from rolemesh.config.settings import settings
from rolemesh.config.shape import Section, known_path, section_of
from rolemesh.config.structure import Structurer
from rolemesh.config.tree import Map, Path, Problem, nearest_origin
from rolemesh.errors import ConfigError

T = TypeVar("T")


@frozen
class Schema(Generic[T]):
    """A kind of configuration. `check` judges the merged values, `guard` each override's step."""

    cls: type[T]
    search: Search
    check: Callable[[T], Iterator[tuple[Path, str]]]
    guard: Callable[[Map | None, Map], Iterator[tuple[Path, str]]]


@frozen
class Loaded(Generic[T]):
    """`files` are absolute, the base first. `tree` is the merged result with its origins."""

    config: T
    files: tuple[str, ...]
    tree: Map = field(repr=False)

    def render(self) -> str:
        """The merged result as YAML, secrets masked, with the place each value came from."""
        return render(self.config, self.tree)


@frozen
class Assembly(Generic[T]):
    """One load. `problems` begins with what the files' own form brought up."""

    schema: Schema[T]
    expander: Expander
    problems: list[Problem] = Factory(list)

    def load(self, layers: Sequence[Map], sources: Sources) -> Loaded[T]:
        """`layers` are the files' trees, the base first. Raises ConfigError."""
        shape = section_of(self.schema.cls)
        above = settings(shape, sources.settings, self.expander.env)
        merged = self._merge([*layers, *above])
        config = self._structure(merged)
        if config is None or self.problems:
            raise all_problems(self.problems, shape, sources.files)
        return Loaded(config, sources.files, merged)

    def _merge(self, layers: Sequence[Map]) -> Map:
        shape = section_of(self.schema.cls)
        merged: Map | None = None
        for layer in layers:
            expanded = self.expander.section(layer, shape)
            for path, says in self.schema.guard(merged, expanded):
                self.problems.append(Problem(nearest_origin(expanded, path), path, says))
            merged = expanded if merged is None else merge(merged, expanded)
        if merged is None:
            raise ConfigError("no configuration file was named")
        return merged

    def _structure(self, merged: Map) -> T | None:
        structurer = Structurer(read_secret)
        config: T | None = structurer.whole(merged, section_of(self.schema.cls))
        self.problems.extend(structurer.problems)
        if config is None:
            return None
        for at, says in self.schema.check(config):
            path = structurer.written(at)
            if not _hides(structurer.lost, path):
                self.problems.append(Problem(nearest_origin(merged, path), path, says))
        return config


def _hides(lost: set[Path], path: Path) -> bool:
    """Whether a rule was judged on a value that could not be read: that is told already."""
    return any(each[: len(path)] == path or path[: len(each)] == each for each in lost)


def all_problems(problems: Sequence[Problem], shape: Section, files: Sequence[str]) -> ConfigError:
    """A line each, file by file from the top; what is no file (variables, options) comes last."""

    def place(problem: Problem) -> tuple[int, int]:
        file = problem.origin.file
        return files.index(file) if file in files else len(files), problem.origin.line

    told = (evolve(each, path=known_path(each.path, shape)) for each in problems)
    lines = (str(problem) for problem in sorted(told, key=place))
    return ConfigError("\n".join(dict.fromkeys(lines)))
