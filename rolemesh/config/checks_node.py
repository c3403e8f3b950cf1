"""Rules between the keys of a node's configuration. Pure.

Each problem is a path in the file and a sentence; `load` adds file and line. What only the machine
can tell (files, flags of the binary, GPUs) is judged by the node.
"""

from __future__ import annotations

from collections.abc import Iterator

from rolemesh.config.schema_node import NodeFile
from rolemesh.config.tree import Map, Path

Flaw = tuple[Path, str]


def check(config: NodeFile) -> Iterator[Flaw]:
    yield from ()


def guard(base: Map | None, over: Map) -> Iterator[Flaw]:
    yield from ()
