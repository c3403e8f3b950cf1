"""Keeps the plan of the rooms true: imports go down, core and wire stay pure, and each foreign
library lives in one place. Works on the source alone, on whatever rooms exist."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

PACKAGE = "rolemesh"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

# A room may import from rooms of a lower rank, and from itself.
RANKS = {
    "errors": 1,
    "core": 2,
    "wire": 3,
    "config": 4,
    "server": 5,
    "proxy": 5,
    "store": 5,
    "builtin": 5,
    "register": 6,
    "gateway": 6,
    "node": 6,
    "cli": 7,
    "__main__": 8,
}
BESIDE = {("node", "register")}

PURE = ("core", "wire")
IMPURE = {
    "aiohttp",
    "asyncio",
    "httptools",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uvloop",
}

ONLY_IN = {
    "yaml": ("config/load.py",),
    "prometheus_client": ("server/metrics.py",),
    "click": ("cli/",),
    "pynvml": ("node/nvml.py",),
}

VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}


@frozen
class Module:
    """One source file, and what it imports: full names, and the line of each. `typed` are the
    lines of imports that only the type checker follows."""

    name: str
    path: str
    imports: tuple[tuple[str, int], ...]
    typed: frozenset[int]

    @property
    def room(self) -> str:
        return _room(self.name)


def _room(name: str) -> str:
    """The part below the package; "" for the package itself, whose version anyone may read."""
    return name.split(".")[1] if "." in name else ""


def _name(path: Path) -> str:
    parts = list(path.relative_to(ROOT.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, path: Path, known: set[str]) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in known else base), node.lineno


def _typed(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (line.lineno for line in node.body)


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = list(path.relative_to(ROOT.parent).parent.parts)
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def _module(path: Path, known: set[str]) -> Module:
    tree = ast.parse(path.read_text("utf-8"))
    return Module(
        name=_name(path),
        path=path.relative_to(ROOT).as_posix(),
        imports=tuple(_imports(tree, path, known)),
        typed=frozenset(_typed(tree)),
    )


def _modules() -> tuple[Module, ...]:
    paths = sorted(ROOT.rglob("*.py"))
    known = {_name(path) for path in paths}
    return tuple(_module(path, known) for path in paths)


MODULES = _modules()


def _may_import(importer: str, imported: str) -> bool:
    if importer == imported or not imported or (importer, imported) in BESIDE:
        return True
    # The package's own __init__ imports nothing of its rooms.
    return RANKS.get(imported, 99) < RANKS.get(importer, 0)


def _offences(module: Module) -> list[str]:
    return [
        f"{module.path}:{line} imports {name}"
        for name, line in module.imports
        if name.split(".")[0] == PACKAGE and not _may_import(module.room, _room(name))
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)
def test_every_room_has_a_rank(module: Module) -> None:
    assert module.room in RANKS or not module.room, f"give {module.room} a rank in RANKS"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)
def test_imports_only_go_down(module: Module) -> None:
    assert _offences(module) == []


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if module.room in PURE],
    ids=lambda module: module.path,
)
def test_core_and_wire_know_no_clock_no_chance_and_no_io(module: Module) -> None:
    impure = [
        f"{module.path}:{line} {name}"
        for name, line in module.imports
        if name.split(".")[0] in IMPURE
    ]
    assert impure == []


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_foreign_library_lives_in_one_place(library: str) -> None:
    elsewhere = [
        f"{module.path}:{line}"
        for module in MODULES
        for name, line in module.imports
        if name.split(".")[0] == library and not module.path.startswith(ONLY_IN[library])
    ]
    assert elsewhere == []


def test_no_import_goes_in_a_circle() -> None:
    """Annotations may point both ways (a connection and its pool): nothing is imported for them
    when the program runs. They still may not point up, which is judged above."""
    below = {
        module.name: {
            name
            for name, line in module.imports
            if name.split(".")[0] == PACKAGE and line not in module.typed
        }
        for module in MODULES
    }
    assert _circle(below) == []


def test_no_module_has_a_vague_name() -> None:
    assert [m.path for m in MODULES if VAGUE & set(m.name.split("."))] == []


def test_the_rules_would_catch_an_offence() -> None:
    assert not _may_import("core", "wire")
    assert not _may_import("proxy", "server")
    assert not _may_import("register", "node")
    assert not _may_import("", "core")
    assert _may_import("node", "register")
    assert _may_import("cli", "errors")
    assert _may_import("wire", "")
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def _circle(below: dict[str, set[str]]) -> list[str]:
    """The first circle found, as a way that ends where it began; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for lower in sorted(below.get(name, ())):
            if found := visit(lower, [*way, name]):
                return found
        done.add(name)
        return []

    for name in sorted(below):
        if found := visit(name, []):
            return found
    return []
