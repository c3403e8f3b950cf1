"""Connecting with real sockets: the words for what goes wrong, and who is trusted."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
import uvloop

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Backend, Timeouts
from rolemesh.proxy.connect import HEAD_START_S, _first, tls_context
from rolemesh.proxy.exchange import Broken
from rolemesh.proxy.names import Names
from rolemesh.proxy.pool import Pools
from rolemesh.wire.url import parse_url
from tests.dead_ports import SilentPort
from tests.proxy.backends import ANSWER, Peer, listening
from tests.proxy.conftest import Run
from tests.proxy.shortage import no_descriptor_left
from tests.proxy.test_pool import ask, failing

HASTY = Timeouts(connect_s=0.1, first_byte_s=5.0, idle_s=5.0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(path)
    return path


def serving(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens: taken, so that nobody else will."""
    with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
        four.bind(("127.0.0.1", 0))
        port = four.getsockname()[1]
        six.bind(("::1", port))
        yield port


def backend(url: str, ca_file: str | None = None) -> Backend:
    return Backend("label", "name", parse_url(url), ca_file=ca_file)


# No connection


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_port_on_which_nobody_listens_refuses(run: Run, host: str, closed_port: int) -> None:
    """localhost has two addresses: each refuses for itself."""

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        broken = await failing(pools, backend(f"http://{host}:{closed_port}"))
        assert (broken.failure, broken.reason, broken.detail) == (
            Failure.CONNECT,
            Reason.CONNECTION_REFUSED,
            "connection refused",
        )
        pools.close()

    run(scenario())


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 63 + ".invalid", "xn--a.invalid"])
def test_a_name_without_an_address_says_so(run: Run, host: str) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        broken = await failing(pools, backend(f"http://{host}:80"))
        assert (broken.failure, broken.reason) == (Failure.CONNECT, Reason.NAME_NOT_RESOLVED)
        assert host not in broken.detail
        pools.close()

    run(scenario())


def test_a_port_that_does_not_answer_is_given_up_in_time(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        broken = await failing(pools, backend(silent.url), HASTY)
        assert (broken.failure, broken.reason) == (Failure.CONNECT, Reason.CONNECT_TIMEOUT)
        assert broken.detail == "no connection within 0.1 s"
        pools.close()

    silent = SilentPort()
    try:
        run(scenario())
    finally:
        silent.close()


def test_a_tls_handshake_that_does_not_end_counts_as_connecting(run: Run, ca_file: str) -> None:
    async def behave(peer: Peer) -> None:
        await peer.closed()

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(behave) as server:
            url = f"https://127.0.0.1:{server.port}"
            broken = await failing(pools, backend(url, ca_file), HASTY)
            assert broken.reason is Reason.CONNECT_TIMEOUT
            pools.close()

    run(scenario())


def test_a_name_that_takes_too_long_says_so(run: Run) -> None:
    go = threading.Event()

    def look_up(host: str) -> list[str]:
        go.wait(10.0)
        return ["127.0.0.1"]

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pools = Pools(loop, Names(loop, look_up))
        broken = await failing(pools, backend("http://slow.example:80"), HASTY)
        assert (broken.failure, broken.reason) == (Failure.CONNECT, Reason.NAME_NOT_RESOLVED)
        assert broken.detail == "its name was not resolved within 0.1 s"
        pools.close()

    try:
        run(scenario())
    finally:
        go.set()


def test_without_a_descriptor_it_is_not_the_backend_that_is_at_fault(
    run: Run, ca_file: str, closed_port: int
) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        with no_descriptor_left():
            for there in (
                backend(f"http://127.0.0.1:{closed_port}"),
                backend(f"http://[::1]:{closed_port}"),
                backend(f"https://127.0.0.1:{closed_port}", ca_file),
            ):
                broken = await failing(pools, there)
                assert (broken.failure, broken.reason) == (Failure.CONNECT, Reason.NO_DESCRIPTORS)
        pools.close()

    run(scenario())


def test_idle_connections_are_given_up_for_one_that_is_needed(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            needed = backend(f"http://127.0.0.1:{listener.getsockname()[1]}")
            async with listening() as server:
                await ask(pools, server.backend())
                with no_descriptor_left():
                    broken = await failing(pools, needed, Timeouts(5.0, 0.1, 0.1))
                    assert broken.failure is Failure.FIRST_BYTE_TIMEOUT  # it was connected to
            pools.close()

    run(scenario())


# Several addresses


def resolving(*addresses: str) -> Pools:
    """Every name has these."""
    loop = asyncio.get_running_loop()
    return Pools(loop, Names(loop, lambda host: addresses))


def test_an_address_that_refuses_leads_on_to_the_next_one(run: Run) -> None:
    async def scenario() -> None:
        async with listening(host="127.0.0.3") as server:
            pools = resolving("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
            assert await ask(pools, server.backend(host="some.example"), HASTY) == b"ok"
            assert server.connections == 1
            pools.close()

    run(scenario())


def test_an_address_that_is_silent_has_a_head_start_and_no_more(run: Run) -> None:
    async def scenario() -> None:
        loop, port = asyncio.get_running_loop(), parse_url(silent.url).port
        async with listening(host="127.0.0.2", port=port) as server:
            pools, began = resolving("127.0.0.1", "127.0.0.2"), loop.time()
            assert await ask(pools, server.backend(host="some.example")) == b"ok"
            assert HEAD_START_S <= loop.time() - began < 1.5
            pools.close()

    silent = SilentPort()
    try:
        run(scenario())
    finally:
        silent.close()


def test_a_connection_that_comes_up_too_late_is_closed(
    run: Run, authority: trustme.CA, ca_file: str
) -> None:
    async def scenario() -> None:
        closed = asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.closed()
            closed.set()

        tls = serving(authority, "some.example")
        async with (
            listening(behave) as slow,  # says nothing to our hello
            listening(host="127.0.0.2", port=slow.port, tls=tls) as server,
        ):
            pools = resolving("127.0.0.1", "127.0.0.2")
            there = server.backend(host="some.example", ca_file=ca_file)
            assert await ask(pools, there) == b"ok"
            await closed.wait()
            assert (slow.connections, server.connections) == (1, 1)
            pools.close()

    run(scenario())


def test_one_who_leaves_while_addresses_are_tried_leaves_no_connection_behind(run: Run) -> None:
    async def scenario() -> None:
        connected, closed = asyncio.Event(), asyncio.Event()

        async def behave(peer: Peer) -> None:
            connected.set()
            await peer.closed()
            closed.set()

        async with listening(behave) as slow:
            pools = resolving("127.0.0.1", "127.0.0.2")
            there = backend(f"https://some.example:{slow.port}")
            asking = asyncio.create_task(ask(pools, there))
            await connected.wait()
            asking.cancel()
            await closed.wait()
            await asyncio.wait([asking])
            assert asking.cancelled()
            pools.close()

    run(scenario())


def test_what_an_address_said_tells_more_than_that_there_is_no_way_to_another(
    run: Run, closed_port: int
) -> None:
    async def scenario() -> None:
        for addresses in (("224.0.0.1", "127.0.0.1"), ("127.0.0.1", "224.0.0.1")):
            pools = resolving(*addresses)
            there = backend(f"http://some.example:{closed_port}")
            assert (await failing(pools, there)).reason is Reason.CONNECTION_REFUSED
            pools.close()

    run(scenario())


# TLS


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_of_a_trusted_authority_is_talked_to(
    run: Run, authority: trustme.CA, ca_file: str, host: str
) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(tls=serving(authority, "localhost", "127.0.0.1")) as server:
            for _ in range(3):
                assert await ask(pools, server.backend(host=host, ca_file=ca_file)) == b"ok"
            assert server.connections == 1
            pools.close()

    run(scenario())


def test_a_certificate_for_another_host_is_not_taken(
    run: Run, authority: trustme.CA, ca_file: str
) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(tls=serving(authority, "llm.example")) as server:
            for host in ("localhost", "127.0.0.1"):
                broken = await failing(pools, server.backend(host=host, ca_file=ca_file))
                assert (broken.failure, broken.reason) == (Failure.CONNECT, Reason.TLS_FAILED)
                assert "not valid for" in broken.detail
            assert server.requests == 0
            pools.close()

    run(scenario())


def test_a_certificate_of_another_authority_is_not_taken(
    run: Run, authority: trustme.CA, ca_file: str
) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(tls=serving(trustme.CA(), "127.0.0.1")) as server:
            broken = await failing(pools, server.backend(ca_file=ca_file))
            assert broken.reason is Reason.TLS_FAILED
            assert "certificate" in broken.detail
        # Nor is one of an authority that the system does not know, without a ca_file.
        async with listening(tls=serving(authority, "127.0.0.1")) as server:
            broken = await failing(pools, server.backend())
            assert broken.reason is Reason.TLS_FAILED
            assert server.requests == 0
            pools.close()

    run(scenario())


def test_a_server_that_speaks_no_tls_says_so(run: Run, ca_file: str) -> None:
    async def behave(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(behave) as server:
            url = f"https://127.0.0.1:{server.port}"
            broken = await failing(pools, backend(url, ca_file))
            assert (broken.failure, broken.reason) == (Failure.CONNECT, Reason.TLS_FAILED)
            pools.close()

    run(scenario())


def test_a_server_that_hangs_up_in_the_handshake_is_a_failed_connection(
    run: Run, ca_file: str
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.reset()

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(behave) as server:
            url = f"https://127.0.0.1:{server.port}"
            broken = await failing(pools, backend(url, ca_file))
            assert (broken.failure, broken.reason) == (Failure.CONNECT, Reason.TLS_FAILED)
            pools.close()

    run(scenario())


def test_a_server_that_hangs_up_right_after_the_handshake_is_noticed_at_once(
    run: Run, authority: trustme.CA, ca_file: str
) -> None:
    async def behave(peer: Peer) -> None:
        peer.reset()

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(behave, tls=serving(authority, "127.0.0.1")) as server:
            for _ in range(5):
                broken = await failing(pools, server.backend(ca_file=ca_file))
                assert broken.failure in (Failure.CONNECT, Failure.LOST_BEFORE_HEAD)
            pools.close()

    run(scenario())


@pytest.mark.parametrize("told", [True, False], ids=["close_notify", "cut"])
def test_a_body_that_ends_with_its_connection_is_whole_only_when_tls_says_so(
    authority: trustme.CA, ca_file: str, told: bool
) -> None:
    """RFC 9112 section 9.8: else anybody on the way could have cut it. (Only the daemons' event
    loop tells one from the other.)"""

    def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
        accepted, _ = listener.accept()
        with context.wrap_socket(accepted, server_side=True) as peer:
            peer.recv(65_536)
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it?")
            if told:
                peer.unwrap()
            else:
                peer.shutdown(socket.SHUT_WR)

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving_it = asyncio.create_task(
                asyncio.to_thread(serve, listener, serving(authority, "127.0.0.1"))
            )
            there = backend(f"https://127.0.0.1:{listener.getsockname()[1]}", ca_file)
            if told:
                assert await ask(pools, there) == b"all of it?"
            else:
                assert (await failing(pools, there)).failure is Failure.CUT
            await serving_it
        pools.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 10.0))


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_that_is_none_is_a_failed_connection(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Broken) as raised:
        tls_context(str(path))
    assert (raised.value.failure, raised.value.reason) == (Failure.CONNECT, Reason.TLS_FAILED)
    assert raised.value.detail.startswith("ca_file cannot be used: ")
    assert str(tmp_path) not in raised.value.detail


def test_authorities_are_read_again_after_a_reload(
    run: Run, authority: trustme.CA, tmp_path: Path
) -> None:
    async def scenario() -> None:
        pools, path = Pools(asyncio.get_running_loop()), tmp_path / "ca.pem"
        trustme.CA().cert_pem.write_to_path(str(path))
        async with listening(tls=serving(authority, "127.0.0.1")) as server:
            there = server.backend(ca_file=str(path))
            assert (await failing(pools, there)).reason is Reason.TLS_FAILED
            authority.cert_pem.write_to_path(str(path))
            assert (await failing(pools, there)).reason is Reason.TLS_FAILED
            pools.forget_contexts()
            assert await ask(pools, there) == b"ok"
            pools.close()

    run(scenario())


# Networks


@pytest.mark.parametrize(
    ("host", "networks", "allowed"),
    [
        ("127.0.0.1", ["127.0.0.0/8"], True),
        ("127.0.0.1", ["10.0.0.0/8", "127.0.0.1/32"], True),
        ("127.0.0.1", ["10.0.0.0/8"], False),
        ("127.0.0.1", ["::/0"], False),
        ("127.0.0.1", [], False),
        ("localhost", ["127.0.0.0/8"], True),
        ("localhost", ["10.0.0.0/8"], False),
        ("[::ffff:127.0.0.1]", ["127.0.0.0/8"], True),
        ("[::ffff:127.0.0.1]", ["10.0.0.0/8"], False),
    ],
)
def test_the_address_that_is_really_connected_to_is_judged(
    run: Run, host: str, networks: list[str], allowed: bool
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        requests.append(peer)
        peer.send(ANSWER)

    requests: list[Peer] = []

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening(behave) as server:
            there = server.backend(host=host, networks=tuple(map(ip_network, networks)))
            if allowed:
                assert await ask(pools, there) == b"ok"
            else:
                broken = await failing(pools, there)
                assert broken.failure is Failure.CONNECT
                assert broken.reason is Reason.ADDRESS_NOT_ALLOWED
                assert not requests
            assert server.connections == int(allowed)
            pools.close()

    run(scenario())


def test_of_a_names_addresses_only_those_in_the_networks_are_connected_to(run: Run) -> None:
    async def scenario() -> None:
        async with (
            listening() as outside,
            listening(host="127.0.0.2", port=outside.port) as inside,
        ):
            pools = resolving("127.0.0.1", "127.0.0.2")
            networks = (ip_network("127.0.0.2/31"),)
            for _ in range(3):
                there = inside.backend(host="some.example", networks=networks)
                assert await ask(pools, there) == b"ok"
            assert (inside.connections, outside.connections) == (1, 0)
            pools.close()

    run(scenario())


def test_whether_a_forbidden_port_is_open_cannot_be_told(run: Run, closed_port: int) -> None:
    async def scenario() -> None:
        async with listening() as server:
            pools, said = resolving("127.0.0.1"), []
            for port in (server.port, closed_port):
                there = attrs.evolve(
                    backend(f"http://some.example:{port}"), networks=(ip_network("10.0.0.0/8"),)
                )
                broken = await failing(pools, there)
                said.append((broken.failure, broken.reason, broken.detail))
            assert said[0] == said[1]
            assert said[0][1] is Reason.ADDRESS_NOT_ALLOWED
            assert server.connections == 0
            pools.close()

    run(scenario())


def test_a_connection_is_not_lost_when_its_caller_leaves_while_the_others_are_closed(
    run: Run,
) -> None:
    async def scenario() -> None:
        aborted: list[str] = []
        closing = asyncio.Event()

        class Opened:
            def abort(self) -> None:
                aborted.append("the first")

        async def open_at(address: str) -> Any:
            if address == "silent":
                try:
                    await asyncio.sleep(3600)
                finally:
                    closing.set()
                    await asyncio.sleep(0.01)
            return Opened()

        waiting = asyncio.create_task(_first(open_at, ["silent", "ready"]))
        await closing.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert aborted == ["the first"]

    run(scenario())
