"""Opens listening sockets, and says in words why one cannot be had.

Fed with the configuration's values by the daemons' wiring; `accept` takes connections from the
sockets. Opens nothing but what it is asked for, and closes what it opened when a part fails.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from rolemesh.errors import RunError

BACKLOG = 2048
# Addresses of a name that this host does not have (IPv6 switched off) are left out.
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
_Address = tuple[socket.AddressFamily, tuple[str, int]]


def listening_sockets(host: str, port: int, backlog: int = BACKLOG) -> list[socket.socket]:
    """Listen on every address of `host`: a name, an address, or a wildcard.

    `*` and the empty host mean all addresses, and so does `::`, as elsewhere; `0.0.0.0` means all
    IPv4 ones. Port 0 takes a free one, the same for all addresses. Raises RunError.
    """
    opened: list[socket.socket] = []
    skipped: OSError | None = None
    for family, address in _addresses(host, port):
        # The first socket chose the number where the port was 0.
        target = (address[0], opened[0].getsockname()[1] if opened else port)
        try:
            opened.append(_listening_socket(family, target, backlog))
        except OSError as error:
            if error.errno in _NOT_HERE:
                skipped = error
                continue
            _close(opened)
            raise _words(host, target[1], error) from error
    if not opened:
        raise _words(host, port, skipped or OSError(errno.EADDRNOTAVAIL, "no address"))
    return opened


def _addresses(host: str, port: int) -> Sequence[_Address]:
    if host in ("", "*"):
        return [(socket.AF_INET, ("0.0.0.0", port)), (socket.AF_INET6, ("::", port))]
    if host == "::":
        return [(socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise RunError(
            f"cannot listen on {host}: the name does not resolve to an address ({_reason(error)});"
            " use an address of this host, or 127.0.0.1"
        ) from error
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))  # type: ignore[misc]


def _listening_socket(
    family: socket.AddressFamily, address: tuple[str, int], backlog: int
) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has its own socket; both on one port need this.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setblocking(False)
        opened.bind(address)
        opened.listen(backlog)
    except OSError:
        opened.close()
        raise
    return opened


def _words(host: str, port: int, error: OSError) -> RunError:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    what_to_do = {
        errno.EADDRINUSE: "the port is in use; stop what listens there, or choose another port",
        errno.EACCES: "permission denied; ports below 1024 need a privilege: choose a higher one",
        errno.EPERM: "not permitted; a sandbox or firewall of this host forbids it",
        errno.EADDRNOTAVAIL: "this host has no such address; choose one of its own, or 127.0.0.1",
    }.get(error.errno or 0, _reason(error))
    return RunError(f"cannot listen on {where}: {what_to_do}")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _close(sockets: Sequence[socket.socket]) -> None:
    for opened in sockets:
        opened.close()
