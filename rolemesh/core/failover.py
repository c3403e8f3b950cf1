"""May this attempt be tried on another backend? And if none is left, what does the client get?

Asked by the gateway's forward, and only while no byte has reached the client. Asking a model twice
harms nobody; a lost answer does. So another candidate is tried after a connection that could not be
made or was lost before the first body byte, and after an answer that says "not me, not now". Time
that ran out on a backend that had the request ends it: its answer may be half made, and the
client's patience is spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import frozen

from rolemesh.core.health import Reason, Vocabulary
from rolemesh.core.routing import Exclusion
from rolemesh.errors import NoAvailableBackend, RoleMeshError, UpstreamError, UpstreamTimeout

RETRY_AFTER_S = 5.0
RETRY_AFTER_CAPACITY_S = 1.0


class Failure(Vocabulary):
    """How an attempt ended without an answer for the client."""

    CAPACITY = "capacity", "The backend had no room for another request."
    CONNECT = (
        "connect",
        "The connection could not be made: name, address, TLS, or their time ran out.",
    )
    LOST_BEFORE_HEAD = (
        "lost_before_head",
        "The connection was lost after the request was sent, before the answer's head was whole.",
    )
    LOST_BEFORE_BODY = (
        "lost_before_body",
        "The connection was lost between the answer's head and its first body byte.",
    )
    STATUS = "status", "The backend answered with a status that says: not me, not now."
    BAD_ANSWER = "bad_answer", "What the backend answered is not proper HTTP, or is a redirect."
    FIRST_BYTE_TIMEOUT = (
        "first_byte_timeout",
        "The backend sent nothing of its answer within first_byte_s.",
    )
    IDLE_TIMEOUT = "idle_timeout", "The backend fell silent for idle_s in mid-answer."
    CUT = "cut", "The backend broke off its answer after the first body byte."


_MOVES_ON = frozenset(
    {Failure.CAPACITY, Failure.CONNECT, Failure.LOST_BEFORE_HEAD, Failure.LOST_BEFORE_BODY}
)
_NOTHING_SENT = frozenset({Failure.CAPACITY, Failure.CONNECT})
_TIMED_OUT = frozenset({Failure.FIRST_BYTE_TIMEOUT, Failure.IDLE_TIMEOUT})
_NOT_NOW = frozenset({429, 502, 503})
_NOT_YOU = frozenset({401, 403})


@frozen
class Attempt:
    """One try that failed. `detail` is a few words for the caller's eyes: never a key or a body."""

    backend: str
    failure: Failure
    reason: Reason
    detail: str
    status: int | None = None


def is_failure(status: int, credential: bool) -> bool:
    """Whether an upstream's status makes its answer a failed attempt. `credential`: the gateway
    presented one of its own (Backend.auth); without, a 401 or 403 is an answer like others."""
    if status < 400:
        return False
    return status in _NOT_NOW or (credential and status in _NOT_YOU)


def may_try_another(failure: Failure, status: int | None = None, credential: bool = True) -> bool:
    """Only asked while no byte has reached the client. `status` belongs to Failure.STATUS."""
    if failure is Failure.STATUS:
        return status is not None and is_failure(status, credential)
    return failure in _MOVES_ON


def may_try_fresh(failure: Failure, reused: bool, answer_bytes: int) -> bool:
    """Whether the same backend is asked once more, on a new connection: a kept one may have been
    closed by the backend just when it was used (RFC 9110 section 9.2.2 allows it where, as here,
    asking twice is known to be harmless)."""
    return failure is Failure.LOST_BEFORE_HEAD and reused and answer_bytes == 0


def passes_through(status: int, credential: bool = True) -> bool:
    """Whether the last candidate's answer goes to the client as it is. Only 401 and 403 to our own
    credential do not: the client's key was not at fault."""
    return not (credential and status in _NOT_YOU)


def reason_for(status: int) -> Reason:
    """The word for an answer that is_failure."""
    if status == 401:
        return Reason.UNAUTHORIZED
    if status == 403:
        return Reason.FORBIDDEN
    return Reason.UPSTREAM_STATUS


def details(
    attempts: Iterable[Attempt], excluded: Iterable[Exclusion] = ()
) -> list[dict[str, Any]]:
    """The chain for error.details: what was tried, in order, then what was not tried."""
    tried = [(one.backend, one.reason, one.detail) for one in attempts]
    untried = [(one.label, one.reason, one.detail) for one in excluded]
    return [
        {"backend": backend, "reason": reason.value, "detail": detail}
        for backend, reason, detail in tried + untried
    ]


def final_error(
    alias_name: str, attempts: Sequence[Attempt], excluded: Sequence[Exclusion] = ()
) -> RoleMeshError:
    """What to raise when no candidate is left (or may be tried), and no answer passes through.
    Without attempts: there was no candidate at all."""
    chain = details(attempts, excluded)
    if all(one.failure in _NOTHING_SENT for one in attempts):
        return NoAvailableBackend(
            f"No backend of {alias_name} is available now: try again later.",
            retry_after_s=_retry_after(attempts),
            details=chain,
        )
    last = attempts[-1]
    if last.failure in _TIMED_OUT:
        return UpstreamTimeout(f"{alias_name}: {last.failure.meaning}", details=chain)
    return UpstreamError(f"{alias_name}: {_said(last)}", details=chain)


def _retry_after(attempts: Sequence[Attempt]) -> float:
    """A slot comes free sooner than a dead backend comes back."""
    if any(one.failure is Failure.CAPACITY for one in attempts):
        return RETRY_AFTER_CAPACITY_S
    return RETRY_AFTER_S


def _said(last: Attempt) -> str:
    if last.status in _NOT_YOU:
        return "The backend refused the gateway's own credential; your key is not at fault."
    return last.failure.meaning
