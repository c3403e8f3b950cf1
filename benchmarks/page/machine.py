"""Where and with what a run was done: the machine and the versions of what ran on it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from attrs import frozen

from benchmarks.adapter import Gateway

LIBRARIES = ("aiohttp", "uvloop", "httptools", "msgspec")


@frozen
class Machine:
    """`versions`: of the gateways measured, and of what RoleMesh stands on."""

    processor: str
    cores: int
    memory_gib: int
    kernel: str
    python: str
    versions: dict[str, str]


def machine(gateways: Sequence[Gateway]) -> Machine:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30),
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=platform.python_version(),
        versions={
            **{gateway.name: gateway.version() or "" for gateway in gateways},
            **{name: version(name) for name in LIBRARIES},
        },
    )


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
