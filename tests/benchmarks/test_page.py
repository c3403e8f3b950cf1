"""The page, its pictures and its targets, out of a run made by hand."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from attrs import evolve

from benchmarks.figures import Figure, Sample
from benchmarks.job import Outcome, Spread
from benchmarks.page.machine import Machine
from benchmarks.page.plots import plots
from benchmarks.page.record import Run, WorkDone, as_json, from_json
from benchmarks.page.report import page
from benchmarks.page.summary import summary
from benchmarks.page.svg import Bar, Chart, svg
from benchmarks.page.tables import cramped, tables
from benchmarks.page.targets import targets

DIRECT = Outcome(100, 100, 0, (), elapsed_s=1.0, cpu_s=0.1, first_byte=Spread(0.001, 0.002))
WORKS = ("streams", "requests", "latency", "streams-2000")
COSTS_US = {"nginx": 20.0, "rolemesh": 50.0, "sglang-router": 120.0, "sglang-router-lean": 100.0}


def sample(gateway: str, work: str, cost_us: float) -> Sample:
    outcome = evolve(DIRECT, first_byte=Spread(0.0015, 0.012))
    cpu_s, each = cost_us * 100 / 1e6, 8 * 1024.0
    beside = DIRECT if work == "latency" else None
    return Sample(gateway, work, 0, 100, cpu_s, 0.1, 32 * 2**20, each, outcome, beside)


def run() -> Run:
    direct = [sample("direct", work, 0.0) for work in WORKS if work != "latency"]
    through = [sample(name, work, cost) for name, cost in COSTS_US.items() for work in WORKS]
    failed = Outcome(0, 0, 1, ("HTTP 500",), elapsed_s=0.0, cpu_s=0.0)
    broken = [Sample("litellm", work, 0, 0, 0.0, 0.0, 0, None, failed) for work in WORKS]
    names = (*COSTS_US, "litellm")
    return Run(
        command="make bench-full",
        at="2026-01-02",
        rounds=1,
        machine=Machine("a processor", 2, 8, "Linux 6.1", "3.11", dict.fromkeys(names, "1.0")),
        settings=dict.fromkeys(names, "as it comes"),
        missing={"portkey": "make bench-peers"},
        works=tuple(WorkDone(each, f"title of {each}", "request", True, 10) for each in WORKS),
        samples=(*direct, *through, *broken),
        may_fail=("litellm",),
    )


def parsed(picture: str) -> ET.Element:
    return ET.fromstring(picture)  # noqa: S314  made by us a moment ago


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {start}"))


def test_a_run_is_read_back_as_it_was_written() -> None:
    assert from_json(as_json(run())) == run()


def test_a_target_is_compared_with_the_best_router_as_it_comes() -> None:
    text = targets(run())
    line = row(text, "CPU per request of 1 KiB, against the best Rust router |")
    assert line.endswith("| 0.55 times (goal 0.4) | 0.42 (0.42 to 0.42) times | reached |")
    line = row(text, "CPU per request of 1 KiB, against the best Rust router made lean |")
    assert line.endswith("| | 0.50 (0.50 to 0.50) times | for comparison |")


def test_targets_are_missed_reached_or_beyond_their_goal() -> None:
    text = targets(run())
    assert row(text, "CPU per request of 1 KiB, against nginx").endswith("| reached |")
    assert row(text, "CPU per streamed event, 200 streams, against nginx").endswith(
        "| **missed** |"
    )
    assert row(text, "memory per open stream of 2,000").endswith(
        "| 8.0 (8.0 to 8.0) KiB | reached |"
    )
    assert row(text, "added wait at a third of saturation, p50").endswith("ms | reached |")
    assert row(text, "added wait at a third of saturation, p99").endswith("ms | **missed** |")


def test_a_target_without_a_peer_to_compare_with_says_so() -> None:
    alone = evolve(run(), samples=tuple(s for s in run().samples if s.gateway == "rolemesh"))
    line = row(targets(alone), "CPU per request of 1 KiB, against nginx")
    assert line.endswith("| nothing to compare with in this run |")


def test_targets_of_works_that_were_not_done_are_left_out() -> None:
    assert "1 MiB" not in targets(run())


def test_the_page_names_what_did_not_finish_and_what_was_not_there() -> None:
    text = page(run(), ["## Soak\n\nIt was flat."])
    assert row(text, "litellm").count("did not finish") == 5
    assert "| litellm | did not finish: HTTP 500 |" in text
    assert "- **portkey** was not installed (`make bench-peers`)" in text
    assert "## Soak\n\nIt was flat.\n\n## What is measured" in text


def test_the_summary_has_a_column_for_each_work_that_was_done() -> None:
    text = summary(run())
    assert row(text, "rolemesh") == (
        "| rolemesh | 50 µs | 20,000 | 50.0 µs | 0.50, 10.00 ms | 32 MiB | 8.0 KiB |"
    )
    assert "per idle connection" not in text


def of_idle(*closed: int) -> Run:
    """In each round so many of the connections were closed."""
    whole = [sample("peer", "idle", 10.0) for _ in closed]
    samples = [
        evolve(each, round=number, outcome=evolve(each.outcome, idle_closed=closed[number]))
        for number, each in enumerate(whole)
    ]
    work = WorkDone("idle", "beside idle ones", "request", True, 10)
    return evolve(run(), settings={"peer": ""}, samples=tuple(samples), works=(work,))


def test_connections_that_were_closed_have_no_size() -> None:
    some = of_idle(0, 4800)
    for text in (summary(some), tables(some)):
        assert "| closed 4,800 |" in text
        assert "KiB" not in text
    assert "8.0 KiB" in summary(of_idle(0, 0))


def test_memory_at_rest_is_the_same_wherever_it_is_shown() -> None:
    """It is read once a life, and counts once, however many works came after."""
    lives = [40, 50, 60, 60, 60, 60]
    names = ("latency", "streams-2000", "streams", "requests", "paced", "idle")
    samples = [
        evolve(sample("rolemesh", name, 10.0), pss_base_bytes=mib * 2**20)
        for name, mib in zip(names, lives, strict=True)
    ]
    alone = evolve(run(), settings={"rolemesh": ""}, samples=tuple(samples))
    assert "| 50 MiB |" in row(summary(alone), "rolemesh")
    assert "| rolemesh | 50 MiB |" in tables(alone)
    assert "50 (40 to 60) MiB" in row(targets(alone), "memory at rest")


def test_every_picture_on_the_page_is_written_and_is_xml() -> None:
    text, drawn = page(run()), plots(run())
    assert set(drawn) == {f"performance/{name}.svg" for name in ("request", "event", "stream")}
    for path, picture in drawn.items():
        assert f"]({path})" in text
        words = [each.text for each in parsed(picture).iter() if each.tag.endswith("}text")]
        assert {"nginx", "rolemesh", "did not finish"} <= set(words)


def test_a_harness_that_was_no_faster_than_a_gateway_is_named() -> None:
    free = evolve(run().works[1], fixed_rate=False)
    assert cramped(evolve(run(), works=(free,))) == ["requests"]
    assert cramped(run()) == []


def test_one_cramped_round_is_enough_to_be_named() -> None:
    free = evolve(run().works[1], fixed_rate=False)
    slow = [each for each in run().samples if each.workload == "requests"]
    fast = [
        evolve(each, round=number, units=each.units * (10 if each.gateway == "direct" else 1))
        for each in slow
        for number in (1, 2)
    ]
    assert cramped(evolve(run(), works=(free,), samples=(*slow, *fast))) == ["requests"]
    assert cramped(evolve(run(), works=(free,), samples=tuple(fast))) == []


def widths(*values: float) -> list[float]:
    bars = [Bar(f"<{each}>", Figure(each, each, each), ours=not i) for i, each in enumerate(values)]
    root = parsed(svg(Chart("title", "below it", "µs", tuple(bars))))
    drawn = [each for each in root.iter() if each.get("class") in ("bar", "ours")]
    return [float(each.get("width", "")) for each in drawn]


def test_bars_are_as_long_as_their_values() -> None:
    one, two, three = widths(10, 20, 5)
    assert two == pytest.approx(2 * one, abs=0.2)
    assert three == pytest.approx(one / 2, abs=0.2)


def test_a_bar_too_long_for_the_others_is_cut() -> None:
    one, two, cut = widths(10, 20, 25_000)
    assert two == pytest.approx(2 * one)
    assert cut == two


@pytest.mark.parametrize("values", [(0.0, 0.0), (-3.0, -0.1), (-1.0, 2.0)])
def test_what_is_nothing_or_less_has_a_bar_without_length(values: tuple[float, ...]) -> None:
    assert widths(*values)[0] == 0
