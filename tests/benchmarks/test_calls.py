"""The hot path has not grown: function calls per request and per event, counted in a real gateway.

No times: what is counted is nearly the same on every machine. The bounds leave a quarter of room
above what was counted when they were written; who goes beyond them has made every request longer,
and raises them only for a reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.calls import Calls, counted

MOST_A_REQUEST = 245
MOST_AN_EVENT = 11.5


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Calls:
    return counted(tmp_path_factory.mktemp("lane"), fast_lane=True)


def test_a_request_makes_no_more_calls_than_it_did(lane: Calls) -> None:
    assert 0 < lane.per_request <= MOST_A_REQUEST


def test_an_event_of_a_stream_makes_no_more_calls_than_it_did(lane: Calls) -> None:
    assert 0 < lane.per_event <= MOST_AN_EVENT


def test_ordinary_requests_are_served_in_the_fast_lane(lane: Calls, tmp_path: Path) -> None:
    assert lane.per_request < 0.9 * counted(tmp_path, fast_lane=False).per_request
