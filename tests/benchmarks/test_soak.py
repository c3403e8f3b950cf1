"""The long runs, made short: they see what is lost, what is wrong, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from benchmarks.script import Script, expected, pieces
from benchmarks.soak import __main__ as soak
from benchmarks.soak.figures import Soaked, slope
from benchmarks.soak.long_streams import Holding, losses, received
from benchmarks.soak.numbered import Losses, Numbered
from benchmarks.soak.scene import Scene
from benchmarks.soak.traffic import Kind, visit
from benchmarks.soak.visits import ANSWER, ordinary
from benchmarks.soak.watch import Reading, figure

SCRIPT = Script(answer_bytes=40, events=5, gap_ms=1)
FIVE = pieces(SCRIPT)[:-1]
DONE = pieces(SCRIPT)[-1]
IDLE = Reading(
    at_s=0.0,
    rss_bytes=40 * 2**20,
    pss_bytes=40 * 2**20,
    uss_bytes=30 * 2**20,
    blocks=200_000,
    descriptors=16,
    threads=3,
    tasks=4,
    connections=0,
    in_flight=0,
    cpu_s=1.0,
)


def order(*numbers: int) -> tuple[bytes, ...]:
    return (*(FIVE[number] for number in numbers), DONE)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """Whatever comes is answered with this, and the connection closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(EOFError):
            await reader.readuntil(b"}")
            writer.write(answer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def whole(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def soaked(*readings: Reading, after: Reading = IDLE, **values: Any) -> Soaked:
    given = {"visits": {}, "answers": 0, "events": 0, "wrong": {}, "words": (), **values}
    return Soaked(minutes=30.0, idle=IDLE, after=after, readings=readings, **given)


def growing(mib_per_h: float) -> list[Reading]:
    """For half an hour."""
    rise = mib_per_h * 2**20 / 3600
    return [
        evolve(IDLE, at_s=float(at), uss_bytes=round(IDLE.uss_bytes + rise * at))
        for at in range(0, 1800, 10)
    ]


@pytest.mark.parametrize(
    ("came", "seen"),
    [
        (order(0, 1, 2, 3, 4), Losses()),
        (order(0, 1, 3, 4), Losses(lost=1)),
        (order(0, 1, 2), Losses(lost=2)),
        (order(0, 2, 1, 3, 4), Losses(reordered=1)),
        (order(0, 3, 1, 4), Losses(reordered=1, lost=1)),
        (order(0, 1, 1, 2, 3, 4), Losses(duplicated=1)),
        (order(0, 2, 1, 1, 3, 4), Losses(reordered=1, duplicated=1)),
        (order(0, 1, 2, 3, 4)[:-1], Losses(spoilt=1)),
        ((*order(0, 1, 2, 3, 4), FIVE[0]), Losses(spoilt=1)),
        ((b"data: {}\n\n", *order(0, 1, 2, 3, 4)), Losses(spoilt=1)),
        ((FIVE[0].replace(b"word", b"w0rd"), *order(1, 2, 3, 4)), Losses(lost=1, spoilt=1)),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 40, 10_000])
def test_what_became_of_each_event_is_counted(
    came: Sequence[bytes], seen: Losses, size: int
) -> None:
    stream, body = Numbered(SCRIPT), b"".join(came)
    for at in range(0, len(body), size):
        stream.feed(body[at : at + size])
    assert stream.losses == seen


def test_a_slope_is_the_rise_per_hour_and_says_how_sure_it_is() -> None:
    straight = slope([(0, 0), (1800, 2**19), (3600, 2**20)])
    assert straight.mib_per_h == pytest.approx(1.0)
    assert straight.error == pytest.approx(0.0)
    scattered = slope([(0, 0), (1200, 2**20), (2400, 0), (3600, 2**20)])
    assert scattered.error > abs(scattered.mib_per_h) / 2


def test_a_soak_is_judged_by_what_is_left_and_by_the_last_two_thirds_of_its_memory() -> None:
    assert soaked(*growing(0.5)).faults() == []
    assert soaked(*growing(3.0)).faults() == ["memory grows by 3.0 MiB/h"]
    assert soaked(*growing(3.0)).faults(memory=False) == []
    early = [evolve(each, uss_bytes=0) for each in growing(0.0)[:50]]
    assert soaked(*early, *growing(0.0)[60:]).faults() == []
    peaks = [evolve(each, uss_bytes=2**30) for each in growing(0.0)[90::6]]
    assert soaked(*sorted([*growing(0.0), *peaks], key=lambda each: each.at_s)).faults() == []
    left = evolve(IDLE, descriptors=17, tasks=5)
    assert soaked(*growing(0.0), after=left).faults() == [
        "descriptors: 17 at the end, 16 when idle before",
        "tasks: 5 at the end, 4 when idle before",
    ]
    assert soaked(*growing(0.0), wrong={"chunked": 2}).faults() == ["chunked: 2 times wrong"]


def test_a_metric_is_summed_over_its_samples() -> None:
    text = '# HELP a_total x\na_total{b="c"} 2.0\na_total{b="d"} 3.0\na_total_created 9.0\n'
    assert figure(text, "a_total") == 5
    assert figure(text, "a_total", '"d"') == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (whole(expected(ANSWER), 500), "Wrong: HTTP 500"),
        (whole(expected(ANSWER).replace(b"word", b"w0rd", 1)), "Wrong: another body than expected"),
        (whole(expected(ANSWER))[:-1], "Wrong: another body than expected"),
        (b"", "IncompleteReadError"),
        (b"hello\r\n\r\n", "IndexError"),
    ],
)
async def test_a_visit_that_is_answered_in_another_way_is_counted(
    answer: bytes, words: str
) -> None:
    async with answering(answer) as port:
        scene = Scene(port)
        await visit(scene, Kind(ordinary))
    assert scene.tally.wrong == {"ordinary": 1}
    assert scene.tally.words[0].startswith(f"ordinary: {words}")


async def test_streams_that_lose_move_and_double_events_are_seen() -> None:
    async with answering(whole(b"".join(order(0, 3, 1, 1, 4)))) as port:
        holding = Holding(port, b"{}", SCRIPT)
        await holding.open(3)
        await holding.wait(10)
    assert losses(holding.streams) == Losses(lost=3, reordered=3, duplicated=3)
    assert received(holding.streams) == 15
    assert holding.broken == 0


async def test_streams_that_end_too_early_are_broken() -> None:
    async with answering(whole(expected(SCRIPT))[:-1]) as port:
        holding = Holding(port, b"{}", SCRIPT)
        await holding.open(2)
        await holding.wait(10)
    assert holding.broken == 2
    assert holding.words == ["the connection was lost"]


async def test_streams_that_do_not_end_are_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts nobody
        holding = Holding(listener.getsockname()[1], b"{}", SCRIPT)
        await holding.open(1)
        await holding.wait(0.1)
    assert holding.words == ["it did not end in time"]


def test_a_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    argv = ["--minutes", "0.02", "--no-warm-up", "--out", str(tmp_path)]
    assert soak.main(argv) == 0
    done = json.loads((tmp_path / "soak.json").read_text())
    assert len(done["visits"]) == 21
    assert done["wrong"] == {}
    assert done["after"]["tasks"] <= done["idle"]["tasks"]
    assert max(each["descriptors"] for each in done["readings"]) > done["after"]["descriptors"]
    assert "| file descriptors |" in (tmp_path / "soak.md").read_text()


def test_streams_are_held_open_and_counted(tmp_path: Path) -> None:
    prompt_bytes = 2**20
    argv = ["--streams", "20", "--minutes", "0.02", "--every-s", "0.3", "--out", str(tmp_path)]
    assert soak.main([*argv, "--prompt-bytes", str(prompt_bytes)]) == 0
    done = json.loads((tmp_path / "streams.json").read_text())
    assert done["received"] == done["expected"] == 60
    assert done["losses"] == {"lost": 0, "reordered": 0, "duplicated": 0, "spoilt": 0}
    assert all(each["connections"] >= 20 for each in done["readings"])
    # No stream holds its prompt.
    most = max(each["pss_bytes"] for each in done["readings"])
    assert most - done["base_bytes"] < 20 * prompt_bytes / 2
    assert "| per stream |" in (tmp_path / "streams.md").read_text()
