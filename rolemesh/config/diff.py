"""What a reload changes: the key paths whose values differ. Pure.

A daemon touches only what is named here, and tells which of it waits for the next start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import frozen

from rolemesh.config.shape import Choice, Named, Section, Shape, section_of
from rolemesh.config.tree import Path, shown_path

# A listener and a lock cannot be replaced under running requests, nor what names the lock's file
# and is known to gateways, nor the folder of the logs that children write.
_AT_START = (
    *("gateway.host", "gateway.port", "gateway.state_path", "gateway.tls"),
    *("node.host", "node.port", "node.state_path", "node.tls", "node.node_id", "node.log_dir"),
)


@frozen
class Changes:
    """`paths` as in the files: `models.writer.proxy_url`. A section or entry that came or went is
    one path, its own. `needs_restart`: those that have no effect before the next start."""

    paths: frozenset[str]
    needs_restart: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.paths)

    def within(self, section: str) -> bool:
        """Whether `section` (a key path) or anything in it changed."""
        return any(path == section or path.startswith(f"{section}.") for path in self.paths)


def changed(old: Any, new: Any) -> Changes:
    """Both of one schema's class."""
    shape = section_of(type(new))
    paths = frozenset(shown_path(path) for path in _differences(old, new, shape, ()))
    return Changes(paths, tuple(path for path in _AT_START if path in paths))


def _differences(old: Any, new: Any, shape: Shape, path: Path) -> Iterator[Path]:
    if old == new:
        return
    match shape:
        case Section() if old is not None and new is not None:
            for setting in shape.keys.values():
                before, after = shape.get(old, setting.name), shape.get(new, setting.name)
                yield from _differences(before, after, setting.shape, (*path, setting.name))
        case Choice() if type(old) is type(new):
            yield from _differences(old, new, section_of(type(new)), path)
        case Named():
            for name in old | new:
                if name in old and name in new:
                    yield from _differences(old[name], new[name], shape.entry, (*path, name))
                else:
                    yield (*path, name)
        case _:
            yield path
