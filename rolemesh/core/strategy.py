"""In which order candidates that are equally good are tried.

Called by routing only. Chance and the turn are arguments, so an order can be repeated in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rolemesh.core.types import Candidate, Strategy

# Hardly a request needs more attempts than this; 500 nodes need not be shuffled for it.
DRAWN = 8


def order(
    strategy: Strategy,
    candidates: Sequence[Candidate],
    turn: int,
    chance: Callable[[int], int],
) -> list[Candidate]:
    """A new list of all candidates. `turn` counts the alias's requests; `chance(n)` gives an
    integer from 0 to n - 1, each as likely as the other (random.randrange)."""
    ordered = list(candidates)
    if strategy is Strategy.PRIORITY or len(ordered) < 2:
        return ordered
    if strategy is Strategy.ROUND_ROBIN:
        first = turn % len(ordered)
        return ordered[first:] + ordered[:first]
    for place in range(min(DRAWN, len(ordered) - 1)):
        drawn = place + chance(len(ordered) - place)
        ordered[place], ordered[drawn] = ordered[drawn], ordered[place]
    return ordered
