"""Ends what a former run of this node has left, at start, before the first child.

Normally nobody: the guardian has ended them. It may have been killed together with the node. Fed
with what the state file remembers. Only a process that is certainly this node's is touched: its pid
and start time are the recorded ones, or its environment has a marker of this node's; and its
descendants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from rolemesh.node import groups
from rolemesh.node.state import ChildRecord

PATIENCE_S = 2.0
GIVE_UP_S = 5.0


async def end(children: Collection[ChildRecord], owner: str) -> tuple[str, ...]:
    """What was done, a sentence each; for the log."""
    roots = [(child.pid, child.started_at) for child in children]
    family = groups.Family(roots, f"{owner}.", long_ago=True)
    found, left = await asyncio.to_thread(groups.end, family, PATIENCE_S, GIVE_UP_S)
    models = {child.pid: child.model for child in children}
    told = [
        f"{_name(pid, models)}, left by a former run, was ended" for pid in sorted(found - left)
    ]
    told += [f"{_name(pid, models)}, left by a former run, cannot be ended" for pid in sorted(left)]
    return tuple(told)


def _name(pid: int, models: dict[int, str]) -> str:
    return f"process {pid} ({models[pid]})" if pid in models else f"process {pid}"
