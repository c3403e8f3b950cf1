"""Who listens on a port of this host, with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rolemesh.node.ports import free_port, listens

OURS = (os.getpid(),)
WIDER = ["0.0.0.0", *(["::", "::ffff:127.0.0.1"] if socket.has_dualstack_ipv6() else [])]
SHARES = (
    "import socket, sys; s = socket.socket(); "
    "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
    "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print(flush=True); sys.stdin.read()"
)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def port_of(server: socket.socket) -> int:
    port: int = server.getsockname()[1]
    return port


def test_a_server_of_ours_is_ours(server: socket.socket) -> None:
    assert listens(port_of(server), OURS)
    assert listens(port_of(server), [2**22 + 1, *OURS])


def test_a_server_of_another_process_is_not(server: socket.socket) -> None:
    assert not listens(port_of(server), [os.getppid()])
    assert not listens(port_of(server), [])


def test_a_port_without_a_server_is_nobodys() -> None:
    assert not listens(free_port(), OURS)


def test_a_connection_from_that_port_is_no_server(server: socket.socket) -> None:
    with socket.create_connection(server.getsockname()) as client:
        assert not listens(port_of(client), OURS)


def test_a_port_that_is_shared_with_another_process_is_not_trusted(server: socket.socket) -> None:
    argv = [sys.executable, "-I", "-c", SHARES, str(port_of(server))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert not listens(port_of(server), OURS)
        assert listens(port_of(server), [other.pid, *OURS])
        other.communicate()


@pytest.mark.parametrize("address", WIDER)
def test_a_server_on_a_wider_address_counts(address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        if server.family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((address, 0))
        server.listen()
        assert listens(port_of(server), OURS)
        assert not listens(port_of(server), [os.getppid()])


def test_a_free_port_is_none_of_those_taken() -> None:
    seen: set[int] = set()
    for _ in range(20):
        port = free_port(seen)
        assert port not in seen
        seen.add(port)
