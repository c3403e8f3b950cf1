"""Ports of 127.0.0.1: one that nobody holds, and whether a child is the one that listens on it.

A server that is not our child is trusted with nothing, least of all with a child's key. Reads
/proc; `listens` blocks for some milliseconds and is not for the event loop.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterable

from rolemesh.node import groups

_LISTEN = b"0A"
# As in /proc/net/tcp: 32-bit words in the host's byte order; both orders are looked for.
_LOCAL = (
    *(b"0100007F", b"7F000001", b"00000000"),
    *(b"0" * 32, b"0000000000000000FFFF00000100007F", b"00000000000000000000FFFF7F000001"),
)
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")


def free_port(taken: Collection[int] = ()) -> int:
    """`taken`: given out already, and perhaps not bound yet. Raises OSError when there is none."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


def is_bound(port: int) -> bool:
    """Whether anybody listens on 127.0.0.1:port. Raises OSError."""
    return bool(_listening(port))


def listens(port: int, pids: Iterable[int]) -> bool:
    """Whether whoever connects to 127.0.0.1:port reaches one of these processes, and no other.
    Raises OSError when that cannot be seen now."""
    sockets = _listening(port)
    return bool(sockets) and sockets <= _sockets(pids)


def _listening(port: int) -> set[bytes]:
    """The inodes of the sockets that listen on it (several, with SO_REUSEPORT)."""
    return {inode for table in _TABLES for inode in _listening_in(table, b"%04X" % port)}


def _listening_in(table: str, port: bytes) -> Iterable[bytes]:
    try:
        with open(table, "rb") as file:
            lines = [line.split() for line in file][1:]
    except FileNotFoundError:  # no IPv6 in this kernel
        return
    for fields in lines:
        address, _, number = fields[1].rpartition(b":")
        if number == port and fields[3] == _LISTEN and address in _LOCAL:
            yield fields[9]


def _sockets(pids: Iterable[int]) -> set[bytes]:
    links = (link for pid in pids for link in _descriptors(f"/proc/{pid}/fd"))
    return {link[len("socket:[") : -1].encode() for link in links if link.startswith("socket:[")}


def _descriptors(folder: str) -> Iterable[str]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        if not groups.is_gone(error):
            raise
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError, PermissionError):  # closed meanwhile
            yield os.readlink(f"{folder}/{name}")
