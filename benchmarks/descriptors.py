"""Open files: as many as the hard limit allows, for this process and all that it starts."""

from __future__ import annotations

from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit

SPARE = 256
PER_CONNECTION = 2  # a gateway's, towards its client and towards the upstream


def claim(connections: int) -> None:
    """Raises RuntimeError when so many connections at once do not fit."""
    needed = PER_CONNECTION * connections + SPARE
    soft, hard = getrlimit(RLIMIT_NOFILE)
    if soft == RLIM_INFINITY:
        return
    if hard != RLIM_INFINITY and hard < needed:
        raise RuntimeError(
            f"{connections:,} connections at once need {needed:,} open files, and the hard limit"
            f" is {hard:,} (ulimit -Hn): raise it, or choose other works with --workload"
        )
    setrlimit(RLIMIT_NOFILE, (max(soft, needed) if hard == RLIM_INFINITY else hard, hard))
