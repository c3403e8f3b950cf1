"""File descriptors: raise the limit at start, and tell when they run short.

Asked by `accept` before a connection is let in. The rule: every connection may come to need a
second descriptor, towards a backend; one is admitted only while that could be had as well. So
requests that were let in find what they need, and running out hits newcomers only.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

LEAST_HEADROOM = 32
MOST_HEADROOM = 512


def headroom(limit: int) -> int:
    """For what is neither a client nor its backend: files, name look-ups, idle pooled connections,
    and probes, of which many can be made at once where there is plenty."""
    return min(max(LEAST_HEADROOM, min(limit // 32, MOST_HEADROOM)), limit // 4)


def probes_at_once(limit: int) -> int:
    return max(1, headroom(limit) // 2)


def claim_standard_descriptors() -> None:
    """Whoever started this process may have closed 0, 1 or 2: then the next socket would get that
    number, and what is written to stderr would go to a client."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


def raise_descriptor_limit() -> int:
    """The soft limit becomes the hard one. Returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems call the hard limit infinite and still refuse a number beyond their own.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1_048_576


class Descriptors:
    """The rule above, and one spare descriptor to give up for an answer to those turned away."""

    def __init__(self, limit: int, used: int | None = None) -> None:
        used = _open_now() if used is None else used
        kept_free = headroom(limit)
        self.max_connections = max(1, (limit - used - kept_free) // 2)
        # The kernel gives the lowest free number: one beyond this means that all below are taken.
        self._last_number = max(used + 1, limit - kept_free // 2)
        self._spare: int | None = None
        self.take_spare()

    def admits(self, fileno: int, connections: int) -> bool:
        """May a new connection with this descriptor stay, beside `connections` others?"""
        return connections < self.max_connections and fileno <= self._last_number

    def take_spare(self) -> None:
        if self._spare is None:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def give_spare(self) -> bool:
        """Free the spare descriptor's number for one accept. False: it is in use elsewhere."""
        if self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        return True

    def close(self) -> None:
        self.give_spare()


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 16
