"""Laying one configuration over another: the rule of JSON Merge Patch (RFC 7396).

Mappings merge key by key, anything else is replaced by what comes later. A `null` stands in the
result as any other value does, with its own line: `structure` reads it as "not written", so that it
restores a section's defaults and removes an entry of a mapping keyed by name. Pure.
"""

from __future__ import annotations

from rolemesh.config.tree import Map


def merge(base: Map, over: Map) -> Map:
    """`over` laid over `base`. Every part of the result keeps the place where it was written."""
    entries = dict(base.entries)
    for name, later in over.entries.items():
        earlier = entries.get(name)
        if isinstance(earlier, Map) and isinstance(later, Map):
            entries[name] = merge(earlier, later)
        else:
            entries[name] = later
    return Map(entries, base.origin)
