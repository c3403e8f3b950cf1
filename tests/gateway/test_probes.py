"""Looks at backends that are a few bytes: what is asked, how often, and what it comes to."""

from __future__ import annotations

import asyncio

import pytest

from rolemesh.core.failover import Failure
from rolemesh.core.health import Health, Probe, Reason
from rolemesh.core.types import Backend
from rolemesh.gateway.probes import PROBE_S, Prober
from rolemesh.proxy.exchange import Broken
from rolemesh.wire.url import parse_url
from tests.gateway.scripted import REFUSED, ScriptedPools, answer, stream

VIA = (b"Via", b"1.1 me")
PLAIN = Backend("writer/proxy", "proxy", parse_url("http://10.0.0.3:8012/api/v1"))
KEYED = Backend("planner/gpu", "gpu", PLAIN.url, auth=("X-Api-Key", "s3cret"))


class Watch:
    def __init__(self) -> None:
        self.pools = ScriptedPools()
        self.health = Health()
        self.prober = Prober(self.pools.as_pools(), self.health, VIA)

    def reason(self, backend: Backend) -> Reason | None:
        standing = self.health.state(backend.label)
        assert standing is not None
        return standing.reason


@pytest.fixture
async def watch() -> Watch:
    return Watch()


async def test_it_asks_for_the_list_of_models_with_the_backends_credential(watch: Watch) -> None:
    for backend in (PLAIN, KEYED):
        watch.pools.plays[backend.label].append(answer())
    await watch.prober.look([PLAIN, KEYED])
    asked = [
        "GET /api/v1/models HTTP/1.1",
        "Host: 10.0.0.3:8012",
        "Accept: application/json",
        "Accept-Encoding: identity",
        "Connection: close",
        "Via: 1.1 me",
    ]
    assert watch.pools.head(0) == [*asked, "Content-Length: 0"]
    assert watch.pools.head(1) == [*asked, "X-Api-Key: s3cret", "Content-Length: 0"]
    assert not watch.pools.open_exchanges


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (answer(200), None),
        (answer(404), None),
        (answer(405), None),
        (stream(b"data: endless\n\n"), None),
        (answer(401), Reason.UNAUTHORIZED),
        (answer(403), Reason.FORBIDDEN),
        (answer(503), Reason.UPSTREAM_STATUS),
        (answer(302), Reason.UNEXPECTED_STATUS),
        (REFUSED, Reason.CONNECTION_REFUSED),
        (Broken(Failure.CONNECT, Reason.TLS_FAILED, "TLS failed"), Reason.TLS_FAILED),
        (Broken(Failure.BAD_ANSWER, Reason.BAD_ANSWER, "odd"), Reason.BAD_ANSWER),
        (
            Broken(Failure.FIRST_BYTE_TIMEOUT, Reason.FIRST_BYTE_TIMEOUT, "silent"),
            Reason.PROBE_TIMEOUT,
        ),
        (Broken(Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT, "silent"), Reason.PROBE_TIMEOUT),
        (Broken(Failure.CONNECT, Reason.CONNECT_TIMEOUT, "no connection"), Reason.CONNECT_TIMEOUT),
    ],
)
async def test_what_comes_of_it_is_noted(
    watch: Watch, play: bytes | Broken, reason: Reason | None
) -> None:
    watch.pools.plays[PLAIN.label].append(play)
    await watch.prober.look([PLAIN])
    assert watch.reason(PLAIN) is reason
    assert not watch.pools.open_exchanges


async def test_what_was_just_seen_is_not_looked_at_again(watch: Watch) -> None:
    now = asyncio.get_running_loop().time()
    watch.health.note(PLAIN.label, Probe(Reason.BAD_ANSWER, "odd", now - 1.5))
    await watch.prober.look([PLAIN])
    assert watch.pools.asked == []
    watch.health.note(PLAIN.label, Probe(Reason.BAD_ANSWER, "odd", now - 2.5))
    watch.pools.plays[PLAIN.label].append(answer())
    await watch.prober.look([PLAIN])
    await watch.prober.look([PLAIN])
    assert watch.pools.asked == [PLAIN.label]
    assert watch.reason(PLAIN) is None


async def test_backends_that_differ_in_their_names_only_are_looked_at_once(watch: Watch) -> None:
    twin = Backend("other/proxy", "proxy", PLAIN.url)
    watch.pools.plays[PLAIN.label].append(answer(503))
    await watch.prober.look([PLAIN, twin, PLAIN])
    assert watch.pools.asked == [PLAIN.label]
    assert watch.reason(PLAIN) is watch.reason(twin) is Reason.UPSTREAM_STATUS


async def test_all_are_looked_at_at_once_and_one_who_leaves_ends_nothing(watch: Watch) -> None:
    watch.pools.plays[PLAIN.label].append(None)
    watch.pools.plays[KEYED.label].append(answer())
    first = asyncio.create_task(watch.prober.look([PLAIN, KEYED]))
    await asyncio.sleep(0)
    second = asyncio.create_task(watch.prober.look([PLAIN]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert watch.pools.asked == [PLAIN.label, KEYED.label]
    first.cancel()
    await asyncio.wait([first])
    watch.pools.open_exchanges[0].feed(memoryview(answer(403)))
    await second
    assert watch.reason(PLAIN) is Reason.FORBIDDEN
    assert watch.pools.asked == [PLAIN.label, KEYED.label]


def several(number: int) -> list[Backend]:
    urls = [parse_url(f"http://10.0.1.{last}:8012") for last in range(number)]
    return [Backend(f"node-{last}", f"node-{last}", url) for last, url in enumerate(urls)]


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_are_looked_at_at_once_than_there_are_descriptors_for(watch: Watch) -> None:
    prober, backends = Prober(watch.pools.as_pools(), watch.health, VIA, at_once=2), several(5)
    for backend in backends:
        watch.pools.plays[backend.label].append(None)
    looking = asyncio.create_task(prober.look(backends))
    for answered in range(4):
        await turns()
        assert len(watch.pools.asked) == min(answered + 2, 5)
        watch.pools.open_exchanges[0].feed(memoryview(answer()))
    await turns()
    assert not looking.done()
    watch.pools.open_exchanges[0].feed(memoryview(answer()))
    await looking
    assert [watch.reason(backend) for backend in backends] == [None] * 5


async def test_those_that_were_silent_come_last(watch: Watch) -> None:
    prober, backends = Prober(watch.pools.as_pools(), watch.health, VIA, at_once=1), several(5)
    long_ago = asyncio.get_running_loop().time() - 100.0
    reasons = [Reason.CONNECT_TIMEOUT, None, Reason.PROBE_TIMEOUT, Reason.CONNECTION_REFUSED]
    for backend, reason in zip(backends, reasons, strict=False):
        watch.health.note(backend.label, Probe(reason, "", long_ago))
    for backend in backends:
        watch.pools.plays[backend.label].append(answer())
    await prober.look(backends)
    assert watch.pools.asked == ["node-1", "node-3", "node-4", "node-0", "node-2"]


async def test_who_asks_does_not_wait_for_a_long_line_of_silent_ones(watch: Watch) -> None:
    loop = asyncio.get_running_loop()
    prober, backends = Prober(watch.pools.as_pools(), watch.health, VIA, at_once=1), several(3)
    for backend in backends:
        watch.pools.plays[backend.label].append(None)
    watch.health.note("node-1", Probe(Reason.BAD_ANSWER, "odd", loop.time() - 100.0))
    began = loop.time()
    await prober.look(backends)
    assert PROBE_S < loop.time() - began < PROBE_S + 1.5
    assert watch.reason(backends[0]) is Reason.PROBE_TIMEOUT
    assert watch.reason(backends[1]) is Reason.BAD_ANSWER
    assert watch.health.state("node-2") is None
    # They are seen to behind the call, and not asked twice.
    watch.pools.open_exchanges[0].feed(memoryview(answer()))
    await turns()
    assert watch.reason(backends[1]) is None
    looking = asyncio.create_task(prober.look(backends[2:]))
    await turns()
    watch.pools.open_exchanges[0].feed(memoryview(answer(503)))
    await looking
    assert watch.reason(backends[2]) is Reason.UPSTREAM_STATUS
    assert watch.pools.asked == ["node-0", "node-1", "node-2"]


async def test_without_a_descriptor_nothing_is_learnt_of_a_backend(watch: Watch) -> None:
    short = Broken(Failure.CONNECT, Reason.NO_DESCRIPTORS, "no descriptor")
    watch.pools.plays[PLAIN.label] += [short, answer()]
    watch.pools.plays[KEYED.label] += [short, short]
    long_ago = asyncio.get_running_loop().time() - 100.0
    watch.health.note(KEYED.label, Probe(None, "HTTP 200", long_ago))
    await watch.prober.look([PLAIN, KEYED])
    assert watch.health.state(PLAIN.label) is None
    assert watch.reason(KEYED) is None
    assert not watch.health.failing(0.0)
    await watch.prober.look([PLAIN, KEYED])
    assert watch.reason(PLAIN) is None


async def test_a_backend_that_says_nothing_is_given_two_seconds(watch: Watch) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    watch.pools.plays[PLAIN.label].append(None)
    await watch.prober.look([PLAIN])
    assert PROBE_S == 2.0
    assert 1.9 < loop.time() - began < 3.0
    assert watch.reason(PLAIN) is Reason.PROBE_TIMEOUT
    assert not watch.pools.open_exchanges
