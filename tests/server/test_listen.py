"""Listening sockets, and the words for those that cannot be had."""

from __future__ import annotations

import socket

import pytest

from rolemesh.errors import RunError
from rolemesh.server.listen import listening_sockets


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_port_0_takes_one_free_port_for_every_address():
    opened = listening_sockets("localhost", 0)
    assert len({one.getsockname()[1] for one in opened}) == 1
    for one in opened:
        with socket.create_connection(one.getsockname()[:2], timeout=2):
            pass
        one.close()


@pytest.mark.parametrize("host", ["*", "::", ""])
def test_a_wildcard_is_reached_over_ipv4_and_ipv6(host: str):
    opened = listening_sockets(host, 0)
    port = opened[0].getsockname()[1]
    for address in ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]:
        with socket.create_connection((address, port), timeout=2):
            pass
    for one in opened:
        one.close()


def test_a_port_in_use_is_named_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError) as caught:
            listening_sockets("127.0.0.1", port)
    assert f"127.0.0.1:{port}: the port is in use" in caught.value.message


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "this host has no such address"),
        ("no-such-name.invalid", "does not resolve"),
        ("a" * 70 + ".example", "does not resolve"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(host: str, words: str):
    with pytest.raises(RunError) as caught:
        listening_sockets(host, 0)
    assert host in caught.value.message
    assert words in caught.value.message
