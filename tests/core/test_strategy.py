from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from rolemesh.core.strategy import order
from rolemesh.core.types import Backend, BaseUrl, Candidate, Strategy


def _candidates(names: str) -> list[Candidate]:
    url = BaseUrl("http", "10.0.0.1", 80)
    return [Candidate(Backend(name, name, url), None, name) for name in names]


def _names(candidates: Iterable[Candidate]) -> str:
    return "".join(candidate.key for candidate in candidates)


def _first(_: int) -> int:
    return 0


def _digits(seed: int) -> Callable[[int], int]:
    """A chance that spells `seed` in mixed radix: every seed is another order."""
    rest = [seed]

    def chance(n: int) -> int:
        rest[0], digit = divmod(rest[0], n)
        return digit

    return chance


@pytest.mark.parametrize(
    ("turn", "expected"), [(0, "abc"), (1, "bca"), (2, "cab"), (3, "abc"), (3001, "bca")]
)
def test_round_robin_begins_one_further_every_turn(turn: int, expected: str) -> None:
    assert _names(order(Strategy.ROUND_ROBIN, _candidates("abc"), turn, _first)) == expected


def test_priority_keeps_the_listed_order_on_every_turn() -> None:
    for turn in range(4):
        assert _names(order(Strategy.PRIORITY, _candidates("cab"), turn, _first)) == "cab"


def test_random_reaches_every_order_equally_often() -> None:
    seen = Counter(
        _names(order(Strategy.RANDOM, _candidates("abc"), 0, _digits(seed))) for seed in range(6)
    )
    assert len(seen) == 6


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("names", ["", "a", "ab", "abcdefghijklmnopqrst"])
def test_no_candidate_is_lost_and_none_comes_twice(strategy: Strategy, names: str) -> None:
    for turn in range(5):
        given = _candidates(names)
        ordered = order(strategy, given, turn, lambda n: n - 1)
        assert sorted(_names(ordered)) == sorted(names)
        assert _names(given) == names


@pytest.mark.parametrize("strategy", list(Strategy))
def test_an_order_stays_the_same_however_often_it_is_read(strategy: Strategy) -> None:
    given = _candidates("abcdef")
    ordered = order(strategy, given, 4, lambda n: n - 1)
    assert _names(ordered) == _names(ordered)
    assert len(ordered) == 6
    assert all(candidate in ordered for candidate in given)


def test_random_draws_from_all_of_many() -> None:
    names = "abcdefghijklmnopqrst"
    firsts = {
        _names(order(Strategy.RANDOM, _candidates(names), 0, _digits(seed)))[0]
        for seed in range(len(names))
    }
    assert firsts == set(names)
