"""A node that orphans are handed to, as to the first process of a container.

    python -m tests.node.adopting FOLDER

Says how many dead orphans it is left with.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import uvloop

from rolemesh.node import groups
from rolemesh.node.child_log import ChildLog
from rolemesh.node.guardian import Guardian
from rolemesh.node.process import Process
from tests.node import wrappers

PR_SET_CHILD_SUBREAPER = 36


async def main(folder: Path) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guardian = await Guardian.start("adopting")
    pids = folder / "pids"
    for kind in ("forks twice", "makes a session and leaves it"):
        before = len(wrappers.noted(pids))
        log, marker = ChildLog(folder, kind), guardian.marker()
        argv, env = wrappers.argv(kind), wrappers.env(pids)
        child = await Process.start(argv, env, log, guardian, marker)
        await wrappers.until(lambda before=before: len(wrappers.noted(pids)) == before + 2)
        child.terminate()
        await child.gone()
    await guardian.close()
    left = [each for each in groups.table().values() if each.parent == os.getpid()]
    print("orphans:", len(left))


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
