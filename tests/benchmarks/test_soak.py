"""The long runs, made short: they see what is lost, what is wrong, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from msgspec.json import decode, encode

from benchmarks.process import Process
from benchmarks.script import Script, expected, pieces
from benchmarks.soak import __main__ as soak
from benchmarks.soak import end
from benchmarks.soak.long_streams import Held, Holding, losses, received
from benchmarks.soak.numbered import Losses, Numbered
from benchmarks.soak.operators import reloading
from benchmarks.soak.page import soak_page
from benchmarks.soak.scene import Scene
from benchmarks.soak.setup import Place
from benchmarks.soak.traffic import Kind, visit
from benchmarks.soak.verdict import Soaked, slope
from benchmarks.soak.visits import ANSWER, ordinary
from benchmarks.soak.watch import Kept, Reading, figure, look, settled

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
async def answering(answer: bytes, after: bytes = b"}") -> AsyncIterator[int]:
    """Whatever comes is answered with this, and the connection closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(EOFError):
            await reader.readuntil(after)
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
        evolve(IDLE, at_s=float(at), rss_bytes=round(IDLE.rss_bytes + rise * at))
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
    assert evolve(soaked(*growing(3.0)), minutes=5.0).faults() == []
    early = [evolve(each, rss_bytes=0) for each in growing(0.0)[:50]]
    assert soaked(*early, *growing(0.0)[60:]).faults() == []
    peaks = [evolve(each, rss_bytes=2**30) for each in growing(0.0)[90::6]]
    assert soaked(*sorted([*growing(0.0), *peaks], key=lambda each: each.at_s)).faults() == []
    left = evolve(IDLE, descriptors=17, tasks=5)
    assert soaked(*growing(0.0), after=left).faults() == [
        "descriptors: 17 at the end, 16 when idle before",
        "tasks: 5 at the end, 4 when idle before",
    ]
    assert soaked(*growing(0.0), wrong={"chunked": 2}).faults() == ["chunked: 2 times wrong"]


def test_a_soak_whose_memory_scatters_too_much_to_be_judged_has_failed() -> None:
    scattered = [
        evolve(each, rss_bytes=each.rss_bytes + (at // 6 % 2) * 2**22)
        for at, each in enumerate(growing(0.4))
    ]
    (told,) = soaked(*scattered).faults()
    assert told.startswith("memory cannot be judged within 1 MiB/h: the slope is +")
    assert told.endswith("; run longer")
    assert evolve(soaked(*scattered), minutes=5.0).faults() == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_soak_with_hardly_a_reading_has_failed_and_says_what_else_was_wrong(count: int) -> None:
    done = soaked(*growing(0.0)[:count], wrong={"chunked": 2}, words=("chunked: Wrong: why",))
    assert not done.is_readable
    assert done.faults() == [
        "chunked: 2 times wrong",
        f"{count} readings are too few",
        "chunked: Wrong: why",
    ]


def test_streams_of_which_nothing_was_read_have_failed() -> None:
    done = Held(2, 1.0, 230, 10, 9, Losses(lost=1), 0, ("why",), 2**25, ())
    assert not done.is_readable
    assert done.faults() == ["lost: 1", "nothing was read while every stream was open", "why"]


def test_the_page_can_be_made_of_the_file_of_an_earlier_run() -> None:
    done = soaked(*growing(0.5), visits={"chunked": 3})
    assert soak_page(decode(encode(done), type=Soaked)) == soak_page(done)
    assert "+0.50 MiB/h" in soak_page(done)


def test_what_went_wrong_in_the_warm_up_is_kept_and_its_visits_are_not() -> None:
    tally = Scene(0).tally
    tally.visits["chunked"] = tally.answers = tally.events = 7
    tally.note_wrong("chunked", "why")
    anew = tally.counted_anew()
    assert (anew.visits, anew.answers, anew.events) == ({}, 0, 0)
    assert (anew.wrong, anew.words) == ({"chunked": 1}, ["chunked: why"])


async def _too_late() -> None:
    raise TimeoutError("its own")


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def test_work_for_so_long_ends_and_what_ends_it_before_is_raised() -> None:
    await soak.for_so_long(0.01, _for_ever())
    with pytest.raises(TimeoutError, match="its own"):
        await soak.for_so_long(60, _too_late())


async def test_work_beside_ends_and_what_ended_it_before_is_raised() -> None:
    async with soak.beside(_for_ever()):
        pass
    with pytest.raises(TimeoutError, match="its own"):
        async with soak.beside(_too_late()):
            await asyncio.sleep(0)


class Restless:
    """A gateway's watch that sees something new each time."""

    def __init__(self) -> None:
        self.tasks = 0

    async def kept(self) -> Kept:
        self.tasks += 1
        return Kept(16, self.tasks)


async def test_a_gateway_that_does_not_come_to_rest_is_no_start_but_an_end_to_be_read() -> None:
    with pytest.raises(RuntimeError, match="does not come to rest"):
        await settled(Restless(), quiet_s=5.0, settle_s=0.3)
    await settled(Restless(), quiet_s=5.0, before=evolve(IDLE, tasks=0), settle_s=0.3)


TWO_LINES = """
import signal, sys
def tell(*_):
    with open(sys.argv[1], "a") as window:
        window.write('{"tasks": 1}\\n{"tasks": 2}\\n')
signal.signal(signal.SIGUSR1, tell)
print("ready", flush=True)
while True:
    signal.pause()
"""


async def test_of_two_lines_in_the_window_the_last_is_read(tmp_path: Path) -> None:
    place = Place(tmp_path, 0, 0, 0)
    argv = (sys.executable, "-c", TWO_LINES, str(place.window))
    with Process(argv, place.log) as place.process:
        place.process.wait_for_line()
        assert await look(place, signal.SIGUSR1) == {"tasks": 2}


ENDING = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[1])))
print(sys.argv[2], flush=True)
signal.pause()
"""


@pytest.mark.parametrize(
    ("code", "line", "told"),
    [
        (0, '{"level":"info"}', []),
        (3, '{"level":"info"}', ["the gateway ended with code 3"]),
        (0, "Traceback", ["in its log: Traceback"]),
    ],
)
def test_how_the_gateway_ended_and_what_it_said_is_a_fault_or_none(
    tmp_path: Path, code: int, line: str, told: list[str]
) -> None:
    log = tmp_path / "log"
    with Process((sys.executable, "-c", ENDING, str(code), line), log) as process:
        process.wait_for_line()
    assert end.faults(process, log) == told
    process.was_killed = True
    assert end.faults(process, log)[0].endswith("was killed")


def test_errors_in_the_log_are_faults_but_for_what_the_soak_provokes() -> None:
    lines = [
        b'{"level":"info","path":"/v1/models","status":200}\n',
        b'{"level":"warning","message":"a warning"}\n',
        b'{"level":"error","message":"the configuration was not reloaded, the old one stays"}\n',
        b'{"level":"error","message":"request 1 failed","exception":"Traceback"}\n',
        b"Task was destroyed but it is pending!\n",
    ]
    assert [each.encode() + b"\n" for each in end.wrong_lines(lines)] == lines[-2:]


def test_what_was_written_before_a_soak_failed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no Python can start
    assert soak.main(["--minutes", "0.02", "--out", str(tmp_path)]) == 1
    assert "says nothing" in capsys.readouterr().err
    assert (tmp_path / "failed-soak" / "upstream.log").read_text()


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


async def test_a_bad_page_of_metrics_is_counted_and_does_not_end_the_soak(tmp_path: Path) -> None:
    async with answering(whole(b"", 500), b"\r\n\r\n") as port:
        scene = Scene(port)
        await visit(scene, Kind(reloading(Place(tmp_path, port, 0, 0)), named="reload"))
    assert scene.tally.words == ["reload: Wrong: /metrics answered 500"]


async def test_a_stream_that_is_followed_by_another_answer_is_broken() -> None:
    async with answering(whole(expected(SCRIPT)) + whole(b"")) as port:
        holding = Holding(port, b"{}", SCRIPT)
        await holding.open(1)
        await holding.wait(10)
    assert losses(holding.streams) == Losses()
    assert holding.words == ["more answers than requests"]


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
