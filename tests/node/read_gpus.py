"""Prints what `Gpus` finds on this machine, as a process of its own finds it: JSON."""

from __future__ import annotations

import asyncio
import json

import attrs

from rolemesh.node.gpu import Gpus


async def read() -> None:
    gpus = Gpus()
    await gpus.start()
    figures = [gpus.figures(device.id) for device in gpus.devices]
    told = {
        "devices": [attrs.asdict(device) for device in gpus.devices],
        "figures": [each and attrs.asdict(each) for each in figures],
        "problem": gpus.problem,
    }
    gpus.close()
    print(json.dumps(told))


asyncio.run(read())
