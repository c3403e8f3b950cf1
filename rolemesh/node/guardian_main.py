"""The guardian's program: waits for the node's end, and then ends what the node has left.

Run by `guardian` as a script, without site-packages, and as small as an interpreter can be. Its
standard input is a pipe that only the node can write to: lines `watch PID START MARKER` and `forget
MARKER`. Their end is the node's end, however that came about. It holds nothing else of the node's.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # at the end, so that no file here stands in for one of Python's own
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from rolemesh.node import groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Everything is gone 5 s after the node: SIGKILL comes well before.
PATIENCE_S = 2.0
GIVE_UP_S = 60.0
# A child between its fork and its exec has the node's environment: it is given a moment.
LOOKS = 5

Watched = dict[str, tuple[int, int]]


def watched(lines: Iterable[str]) -> Watched:
    """What is still to be watched when the lines end: pid and start time by marker."""
    children: Watched = {}
    for line in lines:
        match line.split():
            case ["watch", pid, started_at, marker]:
                children[marker] = int(pid), int(started_at)
            case ["forget", marker]:
                children.pop(marker, None)
    return children


def main() -> None:
    # Whoever stops a whole control group or terminal stops the node, and that is told by the pipe.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # What the markers of this node's children begin with: some may have been forked, but not told.
    prefix, since = sys.argv[1:]
    children = watched(sys.stdin).values()
    family = groups.Family(children, prefix, since=int(since))
    groups.end(family, PATIENCE_S, GIVE_UP_S, LOOKS)


if __name__ == "__main__":
    main()
