"""Those who run the gateway in the soak: they reload it, and their nodes come, stay and go."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import Awaitable, Callable

from benchmarks.soak.scene import Scene, Wrong, head, post
from benchmarks.soak.setup import FOUND, Place
from benchmarks.soak.visits import answered
from benchmarks.soak.watch import figure, scrape

RELOAD_S = 10.0
LASTING = "lasting"
PASSING = 20  # names of nodes, or aliases, that come and go: a fleet, not endless new ones
_LOOK_S = 0.1
_METRICS = {
    "devices": [{"id": "gpu0", "memory_used_bytes": 8 * 10**9, "utilization_ratio": 0.5}],
    "host": {"load1": 1.5},
}

Act = Callable[[Scene], Awaitable[None]]


def registration(node_id: str, upstream_port: int) -> bytes:
    """Towards the same upstream, as the model that the script is for."""
    told = {
        "node_id": node_id,
        "base_url": f"http://127.0.0.1:{upstream_port}",
        "served_models": [{"model_id": "bench", "roles": [FOUND]}],
        "meta": {"made": "for the soak"},
    }
    return post(json.dumps(told).encode(), (), "/v1/nodes/register")


def heartbeat(node_id: str) -> bytes:
    told = {"node_id": node_id, "metrics": _METRICS}
    return post(json.dumps(told).encode(), (), "/v1/nodes/heartbeat")


def staying(place: Place) -> Act:
    """A node that registers again each time, and tells of itself."""

    async def act(scene: Scene) -> None:
        async with scene.wire() as wire:
            await answered(wire, registration(LASTING, place.upstream_port), 200)
            for _ in range(5):
                await answered(wire, heartbeat(LASTING), 200)
                await asyncio.sleep(0.2)

    return act


def passing(place: Place) -> Act:
    """A node that comes, is there for a moment, and says goodbye."""

    names = itertools.cycle(f"passing-{number}" for number in range(PASSING))

    async def act(scene: Scene) -> None:
        name = next(names)
        async with scene.wire() as wire:
            await answered(wire, registration(name, place.upstream_port), 200)
            await answered(wire, heartbeat(name), 200)
            await asyncio.sleep(0.2)
            await answered(wire, head("DELETE", f"/v1/nodes/{name}", ()), 200)
            await answered(wire, heartbeat(name), 404)

    return act


def reloading(place: Place) -> Act:
    """Nothing has changed; there is a new alias; the file is broken; all is as it was."""

    names = itertools.cycle(f"extra-{number}" for number in range(PASSING))

    async def act(scene: Scene) -> None:
        extra = next(names)
        await _reload(place, "success")
        place.configure(extra)
        await _reload(place, "success")
        async with scene.wire() as wire:
            await answered(wire, head("GET", f"/v1/models/{extra}"), 200)
        place.break_configuration()
        await _reload(place, "failure")
        place.configure()
        await _reload(place, "success")

    return act


async def _reload(place: Place, result: str) -> None:
    before = await _reloads(place, result)
    place.signal(signal.SIGHUP)
    for _ in range(round(RELOAD_S / _LOOK_S)):
        await asyncio.sleep(_LOOK_S)
        if await _reloads(place, result) > before:
            return
    raise Wrong(f"no {result} of a reload within {RELOAD_S:g} s")


async def _reloads(place: Place, result: str) -> float:
    return figure(await scrape(place.port), "rolemesh_config_reloads_total", f'"{result}"')
