"""Medians, spreads and ratios, out of samples made by hand."""

from __future__ import annotations

from benchmarks.figures import Figure, Sample, figure, headroom, ratio, void
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


def test_headroom_is_over_the_fastest_gateway_of_each_round() -> None:
    samples = [
        sample("direct", 0, 0.0, units=400),
        sample("nginx", 0, 1.0, units=200),
        sample("rolemesh", 0, 1.0, units=100),
    ]
    assert headroom(samples, "direct", "requests") == Figure(2.0, 2.0, 2.0)


def test_cost_rate_and_share_are_of_what_came_in_order() -> None:
    one = sample("nginx", 0, 0.5)
    assert (one.cpu_us, one.rate, one.share) == (5000.0, 50.0, 0.25)


def test_an_error_and_an_empty_round_are_void() -> None:
    bad = [sample("nginx", 0, 1.0, failed=1), sample("nginx", 1, 0.0, units=0)]
    assert void([sample("nginx", 2, 1.0), *bad]) == bad


def test_a_spread_of_nothing_is_nothing() -> None:
    assert spread([]) == Spread()
    assert spread([0.1, 0.2, 0.3]) == Spread(0.2, 0.3)
