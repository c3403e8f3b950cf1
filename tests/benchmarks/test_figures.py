"""Medians, spreads and ratios, out of samples made by hand."""

from __future__ import annotations

import pytest
from attrs import evolve

from benchmarks.figures import (
    Figure,
    Sample,
    cheapest,
    figure,
    headroom,
    of,
    ratio,
    unfinished,
    void,
)
from benchmarks.job import Outcome, Spread, spread


def sample(gateway: str, number: int, cpu_s: float, *, failed: int = 0, units: int = 100) -> Sample:
    outcome = Outcome(units, 0, failed, ("HTTP 502",) * failed, elapsed_s=2.0, cpu_s=0.1)
    return Sample(gateway, "requests", number, units, cpu_s, 0.0, 0, None, outcome)


def test_a_figure_is_the_median_with_the_lowest_and_the_highest() -> None:
    assert figure([5.0, 1.0, 2.0]) == Figure(2.0, 1.0, 5.0)


def test_a_ratio_is_taken_within_each_round() -> None:
    samples = [
        sample("nginx", 0, 1.0),
        sample("rolemesh", 0, 3.0),
        sample("nginx", 1, 10.0),
        sample("rolemesh", 1, 50.0),
    ]
    assert ratio(samples, "rolemesh", "nginx", "requests") == Figure(4.0, 3.0, 5.0)


def test_the_cheapest_of_several_is_so_over_all_rounds() -> None:
    samples = [
        sample("one-router", 0, 2.0),
        sample("other-router", 0, 4.0),
        sample("one-router", 1, 6.0),
        sample("other-router", 1, 5.0),
        sample("one-router", 2, 7.0),
        sample("other-router", 2, 3.0),
    ]
    routers = ("not-there", "one-router", "other-router")
    assert cheapest(samples, routers, "requests") == "other-router"
    assert cheapest(samples, routers[:1], "requests") is None


def test_headroom_is_over_the_fastest_gateway_of_each_round() -> None:
    samples = [
        sample("direct", 0, 0.0, units=400),
        sample("nginx", 0, 1.0, units=200),
        sample("rolemesh", 0, 1.0, units=100),
    ]
    assert headroom(samples, "requests") == Figure(2.0, 2.0, 2.0)


def test_cost_rate_and_share_are_of_what_came_in_order() -> None:
    one = sample("nginx", 0, 0.5)
    assert (one.cpu_us, one.rate, one.share) == (5000.0, 50.0, 0.25)


def test_an_error_and_an_empty_round_are_void() -> None:
    bad = [sample("nginx", 0, 1.0, failed=1), sample("nginx", 1, 0.0, units=0)]
    assert void([sample("nginx", 2, 1.0), *bad]) == bad


def test_what_may_fail_spoils_nothing_and_has_no_figures_where_it_did() -> None:
    samples = [sample("peer", 0, 1.0), sample("peer", 1, 1.0, failed=1)]
    assert void(samples, ["peer"]) == []
    assert of(samples, "peer", "requests") == []
    assert unfinished(samples, "peer", "requests") == "HTTP 502"
    assert unfinished(samples[:1], "peer", "requests") is None


def test_what_fails_without_a_gateway_spoils_the_run_of_any() -> None:
    beside = Outcome(0, 0, 1, ("the connection was lost",), elapsed_s=2.0, cpu_s=0.1)
    bad = evolve(sample("peer", 0, 1.0), beside=beside)
    assert void([bad], ["peer"]) == [bad]
    assert bad.why_void == "the connection was lost"


def test_what_a_gateway_adds_is_beyond_the_same_work_without_it() -> None:
    one = sample("nginx", 0, 0.5)
    one = evolve(
        one,
        outcome=evolve(one.outcome, first_byte=Spread(3.0, 9.0)),
        beside=evolve(one.outcome, first_byte=Spread(1.0, 4.0)),
    )
    assert one.added(lambda outcome: outcome.first_byte.p99) == 5.0
    assert one.saturation == 200.0
    with pytest.raises(ValueError, match="not done without nginx"):
        sample("nginx", 0, 0.5).added(lambda outcome: outcome.elapsed_s)


def test_a_spread_of_nothing_is_nothing() -> None:
    assert spread([]) == Spread()
    assert spread([0.1, 0.2, 0.3]) == Spread(0.2, 0.3)
