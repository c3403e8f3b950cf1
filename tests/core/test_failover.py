from __future__ import annotations

import pytest

from rolemesh.core.failover import (
    Attempt,
    Failure,
    details,
    final_error,
    is_failure,
    may_try_another,
    may_try_fresh,
    passes_through,
    reason_for,
)
from rolemesh.core.health import Reason
from rolemesh.core.routing import Exclusion
from rolemesh.errors import NoAvailableBackend, RoleMeshError, UpstreamError, UpstreamTimeout

REFUSED = Attempt("planner/gpu", Failure.CONNECT, Reason.CONNECTION_REFUSED, "refused")
FULL = Attempt("planner/cpu", Failure.CAPACITY, Reason.AT_CAPACITY, "64 in flight")
LOST = Attempt("planner/cpu", Failure.LOST_BEFORE_HEAD, Reason.CONNECTION_LOST, "reset")
BUSY = Attempt("planner/cpu", Failure.STATUS, Reason.UPSTREAM_STATUS, "answered 503", 503)
DENIED = Attempt("planner/cpu", Failure.STATUS, Reason.UNAUTHORIZED, "answered 401", 401)
SLOW = Attempt("planner/cpu", Failure.FIRST_BYTE_TIMEOUT, Reason.FIRST_BYTE_TIMEOUT, "600 s")
SILENT = Attempt("planner/cpu", Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT, "300 s")
ODD = Attempt("planner/cpu", Failure.BAD_ANSWER, Reason.BAD_ANSWER, "a redirect")
CUT = Attempt("planner/cpu", Failure.CUT, Reason.CONNECTION_LOST, "reset")


@pytest.mark.parametrize(
    ("failure", "another"),
    [
        (Failure.CAPACITY, True),
        (Failure.CONNECT, True),
        (Failure.LOST_BEFORE_HEAD, True),
        (Failure.LOST_BEFORE_BODY, True),
        (Failure.BAD_ANSWER, False),
        (Failure.FIRST_BYTE_TIMEOUT, False),
        (Failure.IDLE_TIMEOUT, False),
        (Failure.CUT, False),
    ],
)
def test_only_what_was_lost_early_is_tried_elsewhere(failure: Failure, another: bool) -> None:
    assert may_try_another(failure) is another


@pytest.mark.parametrize(
    ("status", "with_credential", "without"),
    [
        (200, False, False),
        (400, False, False),
        (401, True, False),
        (403, True, False),
        (404, False, False),
        (429, True, True),
        (500, False, False),
        (502, True, True),
        (503, True, True),
        (504, False, False),
    ],
)
def test_a_status_is_tried_elsewhere_when_it_says_not_me_not_now(
    status: int, with_credential: bool, without: bool
) -> None:
    assert is_failure(status, credential=True) is with_credential
    assert is_failure(status, credential=False) is without
    assert may_try_another(Failure.STATUS, status) is with_credential
    assert may_try_another(Failure.STATUS, status, credential=False) is without


def test_the_last_answer_passes_through_unless_our_own_credential_was_refused() -> None:
    assert [status for status in (401, 403, 429, 502, 503) if passes_through(status)] == [
        429,
        502,
        503,
    ]
    assert passes_through(401, credential=False)


@pytest.mark.parametrize(
    ("failure", "reused", "answer_bytes", "again"),
    [
        (Failure.LOST_BEFORE_HEAD, True, 0, True),
        (Failure.LOST_BEFORE_HEAD, True, 1, False),
        (Failure.LOST_BEFORE_HEAD, False, 0, False),
        (Failure.LOST_BEFORE_BODY, True, 0, False),
        (Failure.CONNECT, True, 0, False),
        (Failure.FIRST_BYTE_TIMEOUT, True, 0, False),
    ],
)
def test_only_a_kept_connection_lost_in_silence_is_tried_again_fresh(
    failure: Failure, reused: bool, answer_bytes: int, again: bool
) -> None:
    assert may_try_fresh(failure, reused, answer_bytes) is again


@pytest.mark.parametrize(
    ("attempts", "error"),
    [
        ([], NoAvailableBackend),
        ([REFUSED], NoAvailableBackend),
        ([FULL, REFUSED], NoAvailableBackend),
        ([REFUSED, LOST], UpstreamError),
        ([LOST, REFUSED], UpstreamError),
        ([BUSY, REFUSED], UpstreamError),
        ([DENIED], UpstreamError),
        ([ODD], UpstreamError),
        ([CUT], UpstreamError),
        ([REFUSED, SLOW], UpstreamTimeout),
        ([SILENT], UpstreamTimeout),
    ],
)
def test_the_chain_decides_what_the_client_gets(
    attempts: list[Attempt], error: type[RoleMeshError]
) -> None:
    raised = final_error("planner", attempts)
    assert type(raised) is error
    assert raised.details == details(attempts)
    assert "planner" in raised.message


def test_nothing_sent_says_when_to_come_back() -> None:
    assert final_error("planner", [REFUSED]).retry_after_s == 5.0
    assert final_error("planner", [REFUSED, FULL]).retry_after_s == 1.0
    assert final_error("planner", []).retry_after_s == 5.0


def test_a_refused_credential_is_not_blamed_on_the_client() -> None:
    error = final_error("planner", [DENIED])
    assert (error.status, error.code) == (502, "upstream_error")
    assert "not at fault" in error.message


def test_details_name_what_was_tried_and_then_what_was_not() -> None:
    stale = Exclusion("gpu-box-1", Reason.NODE_STALE, "gpu-box-1 stale for 42 s")
    assert details([REFUSED, DENIED], [stale]) == [
        {"backend": "planner/gpu", "reason": "connection_refused", "detail": "refused"},
        {"backend": "planner/cpu", "reason": "unauthorized", "detail": "answered 401"},
        {"backend": "gpu-box-1", "reason": "node_stale", "detail": "gpu-box-1 stale for 42 s"},
    ]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.UNAUTHORIZED),
        (403, Reason.FORBIDDEN),
        (429, Reason.UPSTREAM_STATUS),
        (503, Reason.UPSTREAM_STATUS),
    ],
)
def test_each_failed_status_has_its_word(status: int, reason: Reason) -> None:
    assert reason_for(status) is reason
