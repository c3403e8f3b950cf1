"""Probe results and failures -> available, or why not.

The gateway's probes and attempts are noted here; routing and the model lists read it. The words of
`Reason` are a fixed list that users see (error.details, /ready, /v1/models, /v1/nodes, logs): each
has one meaning, a sentence that the documentation repeats. Nothing here drops a backend: what
failed a moment ago is only tried last.
"""

from __future__ import annotations

import enum
from collections.abc import Container
from typing import Self

from attrs import frozen

FAILED_FOR_S = 2.0


class Vocabulary(enum.Enum):
    """Documented words: `.value` is the word, `.meaning` the sentence that explains it."""

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> Self:
        member = object.__new__(cls)
        member._value_ = word
        member.meaning = meaning
        return member


class Reason(Vocabulary):
    """Why a model, a node or a backend is out."""

    NO_MODEL = "no_model", "No model is configured at all."
    NO_NODE = "no_node", "No node has registered for the role."
    NO_FRESH_NODE = "no_fresh_node", "Every node of the role is stale."
    NODE_STALE = "node_stale", "The node has not been heard of for longer than stale_after_s."
    NODE_DRAINING = (
        "node_draining",
        "The node is draining: an operator or the node itself wants no new requests for it.",
    )
    MODEL_FAILED = "model_failed", "The node says that it cannot run the model (FATAL)."
    AT_CAPACITY = (
        "at_capacity",
        "The backend's max_in_flight or slots are all taken, and none came free within queue_s.",
    )
    CONNECTION_REFUSED = (
        "connection_refused",
        "Nothing listens at the backend's address and port.",
    )
    UNREACHABLE = "unreachable", "There is no route to the backend's address."
    NAME_NOT_RESOLVED = (
        "name_not_resolved",
        "The backend's host name has no address, or none that could be looked up in time.",
    )
    CONNECT_TIMEOUT = "connect_timeout", "No connection to the backend came up within connect_s."
    TLS_FAILED = "tls_failed", "The TLS handshake with the backend failed: see its certificate."
    CONNECT_FAILED = "connect_failed", "The connection could not be made for another reason."
    NO_DESCRIPTORS = (
        "no_descriptors",
        "The gateway has no file descriptor left for a connection: the backend is not at fault.",
    )
    ADDRESS_NOT_ALLOWED = (
        "address_not_allowed",
        "The backend's host name leads to an address outside the networks of the node's key.",
    )
    UNAUTHORIZED = "unauthorized", "The backend answered 401: it wants another credential."
    FORBIDDEN = "forbidden", "The backend answered 403: the credential may not do this."
    UPSTREAM_STATUS = (
        "upstream_status",
        "The backend answered 429 or 5xx: it cannot serve now (it may be loading its model).",
    )
    UNEXPECTED_STATUS = (
        "unexpected_status",
        "The backend answered with a status that no model server gives here: see its base_url.",
    )
    BAD_ANSWER = "bad_answer", "What the backend answered is not proper HTTP, or is a redirect."
    CONNECTION_LOST = "connection_lost", "The backend closed the connection before it had answered."
    PROBE_TIMEOUT = "probe_timeout", "The backend did not answer a probe within 2 s."
    FIRST_BYTE_TIMEOUT = (
        "first_byte_timeout",
        "The backend sent nothing of its answer within first_byte_s.",
    )
    IDLE_TIMEOUT = "idle_timeout", "The backend fell silent for idle_s in mid-answer."


_NO_CONNECTION = frozenset(
    {
        Reason.CONNECTION_REFUSED,
        Reason.UNREACHABLE,
        Reason.NAME_NOT_RESOLVED,
        Reason.CONNECT_TIMEOUT,
        Reason.TLS_FAILED,
        Reason.CONNECT_FAILED,
        Reason.ADDRESS_NOT_ALLOWED,
    }
)
_REACHABLE = frozenset({200, 404, 405})
_NONE: frozenset[str] = frozenset()


@frozen
class Probe:
    """One look at a backend. `reason` None: it answered. `at`: monotonic seconds."""

    reason: Reason | None
    detail: str
    at: float


@frozen
class Standing:
    """What is known of a backend: its last probe, and since when it has that reason."""

    reason: Reason | None
    detail: str
    since: float
    at: float


def verdict(status: int) -> Reason | None:
    """A probe's answer -> None when the backend counts as reachable. Servers without /v1/models
    (404, or 405 to GET) are reachable."""
    if status in _REACHABLE:
        return None
    if status == 401:
        return Reason.UNAUTHORIZED
    if status == 403:
        return Reason.FORBIDDEN
    if status == 429 or status >= 500:
        return Reason.UPSTREAM_STATUS
    return Reason.UNEXPECTED_STATUS


class Health:
    """What was last seen of each backend, by its label."""

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._failed_at: dict[str, float] = {}

    def note(self, label: str, probe: Probe) -> None:
        """Keep a probe's result; `since` stays while the reason does."""
        old = self._standings.get(label)
        since = old.since if old is not None and old.reason is probe.reason else probe.at
        self._standings[label] = Standing(probe.reason, probe.detail, since, probe.at)
        if probe.reason in _NO_CONNECTION:
            self.attempt_failed(label, probe.at)
        elif probe.reason is None:
            self.attempt_worked(label)

    def state(self, label: str) -> Standing | None:
        """None: never probed."""
        return self._standings.get(label)

    def attempt_failed(self, label: str, now: float) -> None:
        """No connection could be made, or one was lost before its answer."""
        self._failed_at.pop(label, None)
        self._failed_at[label] = now  # the latest comes last

    def attempt_worked(self, label: str) -> None:
        if self._failed_at:
            self._failed_at.pop(label, None)

    def failing(self, now: float) -> frozenset[str]:
        """Which failed within the last 2 s: such a candidate is tried last, and never dropped."""
        failed_at = self._failed_at
        while failed_at:
            label, at = next(iter(failed_at.items()))
            if now - at < FAILED_FOR_S:
                return frozenset(failed_at)
            del failed_at[label]
        return _NONE

    def failed_since(self, label: str, at: float) -> bool:
        """Whether an attempt failed after `at`: what a probe saw then is no longer true."""
        return self._failed_at.get(label, at) > at

    def keep(self, labels: Container[str]) -> None:
        """Forget every backend but these: nodes may come and go under ever new names."""
        for known in (self._standings, self._failed_at):
            for label in [label for label in known if label not in labels]:
                del known[label]
