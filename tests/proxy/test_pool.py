"""Pools with real sockets: which connection carries a request, and what becomes of it after."""

from __future__ import annotations

import asyncio
import gc
import weakref
from ipaddress import ip_network

import pytest

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Backend, Timeouts
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.proxy.pool import SWEEP_S, UNANSWERED_S, Pool, Pools
from tests.proxy.backends import ANSWER, REQUEST, Peer, listening
from tests.proxy.conftest import Run
from tests.proxy.recording import RecordedDownstream

TIMEOUTS = Timeouts(connect_s=2.0, first_byte_s=5.0, idle_s=5.0)
HASTY = Timeouts(connect_s=2.0, first_byte_s=0.05, idle_s=0.05)


async def ask(pools: Pools, backend: Backend, timeouts: Timeouts = TIMEOUTS) -> bytes:
    """The body of the answer."""
    exchange = await pools.open(backend, REQUEST, timeouts)
    try:
        return await relayed(exchange)
    finally:
        pools.release(exchange)


async def relayed(exchange: Exchange) -> bytes:
    downstream = RecordedDownstream()
    ended = exchange.relay(downstream, b"", None, False)
    if ended is not None:
        await ended
    return downstream.written


async def failing(pools: Pools, backend: Backend, timeouts: Timeouts = TIMEOUTS) -> Broken:
    with pytest.raises(Broken) as raised:
        await ask(pools, backend, timeouts)
    return raised.value


def test_one_connection_carries_requests_one_behind_the_other(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening() as server:
            for _ in range(5):
                assert await ask(pools, server.backend()) == b"ok"
            assert (server.connections, server.requests) == (1, 5)
            pools.close()

    run(scenario())


def test_none_is_kept_while_a_new_one_waits_for_long_for_its_first_byte(run: Run) -> None:
    """A server of one thread serves the new connection when the old one is closed."""

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        thread, both = asyncio.Lock(), asyncio.Event()

        async def behave(peer: Peer) -> None:
            if peer.number == 1:
                both.set()
            async with thread:
                await peer.request()
                await both.wait()
                peer.send(ANSWER)
                await peer.closed() if peer.number == 0 else None

        async with listening(behave) as server:
            asked = [ask(pools, server.backend()) for _ in range(2)]
            assert await asyncio.wait_for(asyncio.gather(*asked), 2) == [b"ok", b"ok"]
            pools.close()

    run(scenario())


def test_connections_are_kept_while_others_are_new(run: Run) -> None:
    """Else every request of a busy backend would need a new one, and so would the next."""

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening() as server:

            async def client() -> None:
                for _ in range(20):
                    await ask(pools, server.backend())

            await asyncio.gather(*(client() for _ in range(8)))
            assert server.requests == 160
            assert server.connections < 40
            pools.close()

    run(scenario())


def test_the_connection_used_last_is_used_first(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        ready, served = asyncio.Barrier(2), []

        async def behave(peer: Peer) -> None:
            while True:
                await peer.request()
                served.append(peer.number)
                if len(served) <= 2:
                    await ready.wait()  # both at once: each needs a connection
                peer.send(ANSWER)

        async with listening(behave) as server:
            await asyncio.gather(*(ask(pools, server.backend()) for _ in range(2)))
            for _ in range(3):
                await ask(pools, server.backend())
            assert sorted(served[:2]) == [0, 1]
            assert len(set(served[2:])) == 1
            pools.close()

    run(scenario())


def test_a_kept_connection_that_the_backend_closed_under_a_request_is_replaced_once(
    run: Run,
) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(ANSWER)
            await peer.request()
            if peer.number == 0:
                peer.reset()  # its keep-alive was over just then
            else:
                peer.send(ANSWER)

        async with listening(behave) as server:
            assert await ask(pools, server.backend()) == b"ok"
            assert await ask(pools, server.backend()) == b"ok"
            assert server.connections == 2
            assert await ask(pools, server.backend()) == b"ok"
            assert server.connections == 2
            pools.close()

    run(scenario())


def test_a_new_connection_that_is_lost_is_not_replaced(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())

        async def behave(peer: Peer) -> None:
            await peer.request()
            if peer.number == 0:
                peer.send(ANSWER)
                await peer.request()
            peer.reset()

        async with listening(behave) as server:
            await ask(pools, server.backend())
            assert (await failing(pools, server.backend())).failure is Failure.LOST_BEFORE_HEAD
            assert server.connections == 2
            assert (await failing(pools, server.backend())).failure is Failure.LOST_BEFORE_HEAD
            assert server.connections == 3
            pools.close()

    run(scenario())


def test_an_opening_that_is_broken_off_at_any_moment_leaves_no_trace(run: Run) -> None:
    """A connection for which it was too late is none that waits for its first byte."""

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening() as server:
            for turns in range(12):
                opening = asyncio.create_task(pools.open(server.backend(), REQUEST, TIMEOUTS))
                for _ in range(turns):
                    await asyncio.sleep(0)
                opening.cancel()
                await asyncio.wait([opening])
                if not opening.cancelled():
                    pools.release(opening.result())
            await asyncio.sleep(2 * UNANSWERED_S)
            await ask(pools, server.backend())
            opened = server.connections
            await ask(pools, server.backend())
            assert server.connections == opened
            pools.close()

    run(scenario())


class Kept(list[bytes]):
    """A request of which can be told whether it is still there."""


def test_a_prompt_is_gone_as_soon_as_its_attempt_has_failed(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.reset()

        async with listening(behave) as server:
            request = Kept(REQUEST)
            there = weakref.ref(request)
            with pytest.raises(Broken):
                await pools.open(server.backend(), request, TIMEOUTS)
            del request
            await asyncio.sleep(0)  # the loop holds the future that it is telling of
            assert there() is None
            pools.close()

    gc.disable()  # what is part of a cycle stays
    try:
        run(scenario())
    finally:
        gc.enable()


def test_a_kept_connection_lost_after_the_first_byte_of_an_answer_is_not_replaced(
    run: Run,
) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(ANSWER)
            await peer.request()
            peer.send(b"H")

        async with listening(behave) as server:
            await ask(pools, server.backend())
            broken = await failing(pools, server.backend())
            assert (broken.failure, broken.received) == (Failure.LOST_BEFORE_HEAD, 1)
            assert server.connections == 1
            pools.close()

    run(scenario())


def test_a_connection_that_the_backend_closes_while_idle_is_forgotten(run: Run) -> None:
    async def scenario() -> None:
        pools, noticed = Pools(asyncio.get_running_loop()), asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(ANSWER)
            if peer.number == 0:
                peer.writer.write_eof()
                await peer.closed()
                noticed.set()
            else:
                await peer.closed()

        async with listening(behave) as server:
            await ask(pools, server.backend())
            await noticed.wait()
            await ask(pools, server.backend())
            assert server.connections == 2
            pools.close()

    run(scenario())


def test_bytes_on_an_idle_connection_close_it(run: Run) -> None:
    async def scenario() -> None:
        pools, closed = Pools(asyncio.get_running_loop()), asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(ANSWER)
            await asyncio.sleep(0.02)
            peer.send(ANSWER)
            await peer.closed()
            closed.set()

        async with listening(behave) as server:
            await ask(pools, server.backend())
            await closed.wait()
            pools.close()

    run(scenario())


def test_an_idle_connection_is_closed_before_the_backend_would_do_it(run: Run) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pools, closed_at = Pools(loop), loop.create_future()

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2\r\n" + ANSWER[17:])
            await peer.closed()
            closed_at.set_result(loop.time())

        async with listening(behave) as server:
            began = loop.time()
            await ask(pools, server.backend())
            assert 0.9 < await closed_at - began < 1.0 + 4 * SWEEP_S
            pools.close()

    run(scenario())


def test_an_answer_that_closes_its_connection_is_relayed_whole(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000)

        async with listening(behave) as server:
            assert len(await ask(pools, server.backend())) == 300_000
            assert len(await ask(pools, server.backend())) == 300_000
            assert server.connections == 2
            pools.close()

    run(scenario())


def test_releasing_an_unfinished_exchange_closes_its_connection_at_once(run: Run) -> None:
    async def scenario() -> None:
        pools, closed = Pools(asyncio.get_running_loop()), asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
            await peer.closed()
            closed.set()

        async with listening(behave) as server:
            exchange = await pools.open(server.backend(), REQUEST, TIMEOUTS)
            pools.release(exchange)
            await closed.wait()
            pools.close()

    run(scenario())


def test_one_who_leaves_while_waiting_for_the_answer_closes_the_connection(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        asked, closed = asyncio.Event(), asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.request()
            asked.set()
            await peer.closed()
            closed.set()

        async with listening(behave) as server:
            opening = asyncio.create_task(pools.open(server.backend(), REQUEST, TIMEOUTS))
            await asked.wait()
            opening.cancel()
            await closed.wait()
            pools.close()

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "failure", "reason"),
    [
        (b"", Failure.FIRST_BYTE_TIMEOUT, Reason.FIRST_BYTE_TIMEOUT),
        (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 2", Failure.FIRST_BYTE_TIMEOUT, None),
        (ANSWER[:-2], Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT),
        (ANSWER[:-1], Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT),
    ],
)
def test_the_sweep_ends_what_takes_too_long(
    run: Run, sent: bytes, failure: Failure, reason: Reason | None
) -> None:
    async def scenario() -> None:
        pools, closed = Pools(asyncio.get_running_loop()), asyncio.Event()

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(sent)
            await peer.closed()
            closed.set()

        async with listening(behave) as server:
            broken = await failing(pools, server.backend(), HASTY)
            assert broken.failure is failure
            assert broken.reason is (reason or Reason.FIRST_BYTE_TIMEOUT)
            await closed.wait()
            pools.close()

    run(scenario())


def test_closing_the_pools_ends_everything(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        asked, closed = asyncio.Event(), asyncio.Semaphore(0)

        async def behave(peer: Peer) -> None:
            await peer.request()
            if peer.number == 0:
                peer.send(ANSWER)
            else:
                asked.set()
            await peer.closed()
            closed.release()

        async with listening(behave) as idle, listening(behave) as busy:
            await ask(pools, idle.backend())
            await ask(pools, busy.backend())
            waiting = [asyncio.create_task(ask(pools, busy.backend())) for _ in range(2)]
            await asked.wait()
            pools.close()
            for _ in range(3):
                await closed.acquire()
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    run(scenario())


def test_places_are_kept_apart(run: Run) -> None:
    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())
        async with listening() as one, listening() as other:
            for server in (one, other, one, other):
                await ask(pools, server.backend())
            assert (one.connections, other.connections) == (1, 1)
            # A connection that was judged by one key's networks is not another key's.
            await ask(pools, one.backend(networks=(ip_network("127.0.0.0/8"),)))
            assert one.connections == 2
            pools.close()

    run(scenario())


def test_a_place_that_nobody_is_connected_to_is_forgotten(run: Run) -> None:
    """Nodes come and go, each at an address of its own."""

    async def scenario() -> None:
        pools = Pools(asyncio.get_running_loop())

        async def behave(peer: Peer) -> None:
            await peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + ANSWER[17:])

        for _ in range(3):
            async with listening(behave) as server:
                await ask(pools, server.backend())
        await asyncio.sleep(SWEEP_S)  # the event loop lets go of the last connection
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Pool)]
        pools.close()

    run(scenario())
