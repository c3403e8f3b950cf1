"""In which order candidates that are equally good are tried.

Called by routing only. Chance and the turn are arguments, so an order can be repeated in a test.
Nothing is copied: what is tried first is found without looking at the others, and of 500 candidates
hardly a request sees a second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from rolemesh.core.types import Candidate, Strategy

# Hardly a request needs more attempts than this; 500 nodes need not be shuffled for it.
DRAWN = 8
_NOT_MOVED: Mapping[int, int] = {}


class Ordered(Collection[Candidate]):
    """All candidates from the place `first` on, and then those before it; `moved` says for some
    places which other one comes there instead."""

    __slots__ = ("_candidates", "_first", "_moved")

    def __init__(
        self,
        candidates: Sequence[Candidate],
        first: int = 0,
        moved: Mapping[int, int] = _NOT_MOVED,
    ) -> None:
        self._candidates = candidates
        self._first = first
        self._moved = moved

    def __len__(self) -> int:
        return len(self._candidates)

    def __contains__(self, candidate: object) -> bool:
        return candidate in self._candidates

    def __iter__(self) -> Iterator[Candidate]:
        candidates, moved = self._candidates, self._moved
        for place in range(self._first, len(candidates)):
            yield candidates[moved.get(place, place)]
        for place in range(self._first):
            yield candidates[place]


def order(
    strategy: Strategy,
    candidates: Sequence[Candidate],
    turn: int,
    chance: Callable[[int], int],
) -> Collection[Candidate]:
    """All candidates. `turn` counts the alias's requests; `chance(n)` gives an integer from 0 to
    n - 1, each as likely as the other (random.randrange)."""
    number = len(candidates)
    if strategy is Strategy.PRIORITY or number < 2:
        return candidates
    if strategy is Strategy.ROUND_ROBIN:
        return Ordered(candidates, turn % number)
    moved: dict[int, int] = {}
    for place in range(min(DRAWN, number - 1)):
        drawn = place + chance(number - place)
        moved[place], moved[drawn] = moved.get(drawn, drawn), moved.get(place, place)
    return Ordered(candidates, moved=moved)
