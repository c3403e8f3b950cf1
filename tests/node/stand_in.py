"""A node that has nothing but children: every wrapper, and one that the guardian was not told of.

    python -m tests.node.stand_in PIDS LOG_DIR

Says the guardian's pid whenever there is a new one, a line each.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import uvloop

from rolemesh.node import groups
from rolemesh.node.child_log import ChildLog
from rolemesh.node.guardian import Guardian
from rolemesh.node.process import Process
from tests.node import wrappers

OWNER = "stand-in"
UNTOLD = "waits for a child"
PROCESSES = sum(count for _, count in wrappers.WRAPPERS.values()) + wrappers.WRAPPERS[UNTOLD][1]


async def main(pids: Path, log_dir: Path) -> None:
    guardian = await Guardian.start(OWNER)
    env = wrappers.env(pids)
    for kind in wrappers.WRAPPERS:
        log = ChildLog(log_dir, kind)
        await Process.start(wrappers.argv(kind), env, log, guardian, guardian.marker())
    marked = {**env, groups.MARKER: guardian.marker()}
    subprocess.Popen(wrappers.argv(UNTOLD), env=marked, start_new_session=True)
    told = 0
    while True:
        if guardian.pid not in (0, told):
            told = guardian.pid
            print(told, flush=True)
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
