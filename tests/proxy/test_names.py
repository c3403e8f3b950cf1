"""Looking names up: how often, by how many threads, and that a slow one keeps nobody waiting."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.proxy.exchange import Broken
from rolemesh.proxy.names import THREADS, Names, look_up
from tests.proxy.conftest import Run
from tests.proxy.shortage import no_descriptor_left


class Resolver:
    """Answers what it was told. A name that begins with "slow" is answered when `go` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[str] | Exception] = {}
        self.go = threading.Event()

    def look_up(self, host: str) -> list[str]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.go.wait(10.0)
        answer = self.answers.get(host, ["10.0.0.1"])
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.go.set()


def names_of(resolver: Resolver) -> Names:
    return Names(asyncio.get_running_loop(), resolver.look_up)


async def failing(names: Names, host: str) -> Broken:
    with pytest.raises(Broken) as raised:
        await names.addresses(host)
    assert raised.value.failure is Failure.CONNECT
    return raised.value


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:10.0.0.1"])
def test_an_address_is_not_looked_up(run: Run, resolver: Resolver, address: str) -> None:
    async def scenario() -> None:
        assert await names_of(resolver).addresses(address) == (address,)
        assert resolver.asked == []

    run(scenario())


def test_the_two_families_come_in_turn(run: Run, resolver: Resolver) -> None:
    async def scenario() -> None:
        resolver.answers["six"] = ["fd00::1", "fd00::2", "fd00::3", "10.0.0.1"]
        resolver.answers["four"] = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]
        names = names_of(resolver)
        assert await names.addresses("six") == ("fd00::1", "10.0.0.1", "fd00::2", "fd00::3")
        assert await names.addresses("four") == ("10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2")

    run(scenario())


def test_all_who_want_a_name_share_one_look_up_and_those_who_leave_do_not_end_it(
    run: Run, resolver: Resolver
) -> None:
    async def scenario() -> None:
        names = names_of(resolver)
        waiting = [asyncio.create_task(names.addresses("slow")) for _ in range(50)]
        await asyncio.sleep(0.01)
        for task in waiting[:-1]:
            task.cancel()
        resolver.go.set()
        assert await waiting[-1] == ("10.0.0.1",)
        assert all(task.cancelled() for task in waiting[:-1])
        assert resolver.asked == ["slow"]

    run(scenario())


@pytest.mark.parametrize("good", [True, False])
def test_what_came_of_it_is_kept_for_a_moment(run: Run, resolver: Resolver, good: bool) -> None:
    if not good:
        resolver.answers["name"] = socket.gaierror(socket.EAI_NONAME, "no such name")

    async def ask(names: Names) -> None:
        if good:
            assert await names.addresses("name") == ("10.0.0.1",)
        else:
            broken = await failing(names, "name")
            assert broken.reason is Reason.NAME_NOT_RESOLVED
            assert broken.detail == "its name has no address"

    async def scenario() -> None:
        names = names_of(resolver)
        for _ in range(5):
            await ask(names)
        assert resolver.asked == ["name"]
        await asyncio.sleep(2.1)
        await ask(names)
        assert resolver.asked == ["name", "name"]

    run(scenario())


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "its name has no address"),
        (UnicodeError("label too long"), "its name has no address"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "its name could not be looked up"),
        (OSError("odd"), "its name could not be looked up"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(
    run: Run, resolver: Resolver, error: Exception, detail: str
) -> None:
    async def scenario() -> None:
        resolver.answers["name"] = error
        broken = await failing(names_of(resolver), "name")
        assert (broken.reason, broken.detail) == (Reason.NAME_NOT_RESOLVED, detail)

    run(scenario())


def test_slow_names_leave_others_alone_until_all_threads_are_taken(
    run: Run, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        names = names_of(resolver)
        slow = [asyncio.create_task(names.addresses(f"slow-{n}")) for n in range(THREADS - 1)]
        await asyncio.sleep(0.01)
        assert await names.addresses("quick") == ("10.0.0.1",)
        slow.append(asyncio.create_task(names.addresses("slow-too")))
        await asyncio.sleep(0.01)
        broken = await failing(names, "late")
        assert broken.reason is Reason.NAME_NOT_RESOLVED
        assert broken.detail == "too many other names are being looked up"
        resolver.go.set()
        assert await names.addresses("late") == ("10.0.0.1",)
        await asyncio.gather(*slow)

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert caplog.records == []


def test_look_ups_that_fail_when_nobody_waits_any_more_are_no_news(
    run: Run, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        resolver.answers["slow"] = socket.gaierror(socket.EAI_NONAME, "x")
        names = names_of(resolver)
        waiting = asyncio.create_task(names.addresses("slow"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        resolver.go.set()
        assert (await failing(names, "slow")).reason is Reason.NAME_NOT_RESOLVED

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert caplog.records == []


def test_without_a_descriptor_it_is_not_the_name_that_is_at_fault(run: Run) -> None:
    async def scenario() -> None:
        names = Names(asyncio.get_running_loop())
        with no_descriptor_left():
            assert (await failing(names, "localhost")).reason is Reason.NO_DESCRIPTORS
        await asyncio.sleep(0.01)
        assert "127.0.0.1" in await names.addresses("localhost")

    "localhost".encode("idna")  # the codec is a file, too
    run(scenario())


def test_the_systems_own_look_up_gives_each_address_once() -> None:
    assert look_up("127.0.0.1") == ["127.0.0.1"]
    assert look_up("fe80::1%1") == ["fe80::1%1"]
    found = look_up("localhost")
    assert len(found) == len(set(found))


def test_a_look_up_under_way_does_not_keep_the_process() -> None:
    code = """
import asyncio, time, uvloop
from rolemesh.proxy.names import Names

async def main():
    names = Names(asyncio.get_running_loop(), lambda host: time.sleep(30) or ["10.0.0.1"])
    waiting = asyncio.create_task(names.addresses("slow"))
    await asyncio.sleep(0.05)
    names.close()
    await asyncio.wait([waiting])

asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stderr == ""
