"""Slow, silent and deaf clients: how long the gateway waits for them, and for whom it does not."""

from __future__ import annotations

import pytest

from tests.blackbox.patience import Patience


@pytest.mark.parametrize(
    ("name", "least_s", "most_s"),
    [
        ("half_a_head", 13, 19),
        ("drips_its_head", 13, 19),
        ("half_a_body", 28, 35),
        ("stays_idle", 70, 81),
        ("says_nothing", 13, 81),
    ],
)
def test_a_client_that_does_not_go_on_is_closed(
    patience: Patience, name: str, least_s: float, most_s: float
) -> None:
    fate = patience.fate(name)
    assert least_s < fate.lived_s < most_s
    if fate.told:
        assert fate.told.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in fate.told


@pytest.mark.parametrize("name", ["uploads_slowly", "waits_long"])
def test_a_client_that_takes_its_time_is_served(patience: Patience, name: str) -> None:
    fate = patience.fate(name)
    assert fate.told == b"200"
    assert fate.lived_s > 40


def test_a_client_that_stops_reading_is_closed_after_a_minute(patience: Patience) -> None:
    assert 55 < patience.fate("stops_reading").lived_s < 75


def test_no_trace_of_them_is_left(patience: Patience) -> None:
    for name in ("stops_reading", "stays_idle", "waits_long"):
        patience.fate(name)
    assert patience.gateway.metric("requests_in_flight") == 0
