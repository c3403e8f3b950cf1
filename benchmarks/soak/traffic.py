"""Everybody who visits the gateway during a soak, and how many of each at once.

Fixed numbers of each kind, so that what is asked of the gateway at once has a bound that is soon
reached: a peak that only comes by chance after an hour would look like growing memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from attrs import frozen

from benchmarks.soak import breaks, operators, visits
from benchmarks.soak.operators import Act
from benchmarks.soak.scene import Scene, Wrong
from benchmarks.soak.setup import Place

VISIT_S = 60.0
_WRONG = (
    Wrong,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TimeoutError,
    asyncio.LimitOverrunError,
)


@frozen
class Kind:
    """`at_once` visitors, each of whom comes again `pause_s` after a visit."""

    act: Act
    at_once: int = 1
    pause_s: float = 0.1
    named: str = ""

    @property
    def name(self) -> str:
        return self.named or self.act.__name__.replace("_", " ")


def kinds(place: Place) -> tuple[Kind, ...]:
    return (
        Kind(visits.ordinary, at_once=4),
        Kind(visits.to_a_node, at_once=2),
        Kind(visits.failing_over),
        Kind(visits.streaming, at_once=8),
        Kind(visits.large_events, at_once=2),
        Kind(visits.large_prompt, at_once=2, pause_s=0.5),
        Kind(visits.slow_reader, at_once=4),
        Kind(visits.slow_reader_of_events, at_once=2),
        Kind(visits.slow_writer, at_once=2),
        Kind(visits.chunked),
        Kind(visits.expecting),
        Kind(visits.pipelined),
        Kind(visits.looking_around),
        Kind(visits.refused, at_once=2),
        Kind(breaks.leaving, at_once=4),
        Kind(breaks.upstream_broken, at_once=2),
        Kind(breaks.upstream_cut, at_once=2),
        Kind(breaks.upstream_silent, at_once=2),
        Kind(operators.passing(place), at_once=2, named="node that passes"),
        Kind(operators.staying(place), pause_s=0.0, named="node that stays"),
        Kind(operators.reloading(place), pause_s=2.0, named="reload"),
    )


async def traffic(scene: Scene, coming: Sequence[Kind], duration_s: float) -> None:
    """Visits begin for so long; those that have begun are waited for."""
    loop = asyncio.get_running_loop()
    until = loop.time() + duration_s
    async with asyncio.TaskGroup() as visitors:
        for kind in coming:
            for number in range(kind.at_once):
                delay_s = kind.pause_s * number / kind.at_once
                visitors.create_task(_visitor(scene, kind, until, delay_s))


async def _visitor(scene: Scene, kind: Kind, until: float, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(delay_s)
    while loop.time() < until:
        await visit(scene, kind)
        await asyncio.sleep(kind.pause_s)


async def visit(scene: Scene, kind: Kind) -> None:
    scene.tally.visits[kind.name] += 1
    try:
        async with asyncio.timeout(VISIT_S):
            await kind.act(scene)
    except _WRONG as error:
        words = str(error) or "no more words"
        scene.tally.note_wrong(kind.name, f"{type(error).__name__}: {words}")
