from __future__ import annotations

import pytest

from rolemesh.core.failover import Failure
from rolemesh.core.health import Health, Probe, Reason, verdict


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (200, None),
        (404, None),
        (405, None),
        (401, Reason.UNAUTHORIZED),
        (403, Reason.FORBIDDEN),
        (429, Reason.UPSTREAM_STATUS),
        (500, Reason.UPSTREAM_STATUS),
        (503, Reason.UPSTREAM_STATUS),
        (301, Reason.UNEXPECTED_STATUS),
        (204, Reason.UNEXPECTED_STATUS),
        (400, Reason.UNEXPECTED_STATUS),
    ],
)
def test_a_probe_answer_has_one_verdict(status: int, reason: Reason | None) -> None:
    assert verdict(status) is reason


@pytest.mark.parametrize("words", [Reason, Failure])
def test_every_word_is_lower_case_and_has_its_own_sentence(words: type[Reason]) -> None:
    meanings = [word.meaning for word in words]
    assert len(set(meanings)) == len(meanings)
    assert all(meaning.endswith(".") and meaning[0].isupper() for meaning in meanings)
    assert all(word.value == word.name.lower() for word in words)
    assert all(words(word.value) is word for word in words)


def test_since_stays_while_the_reason_does() -> None:
    health = Health()
    assert health.state("gpu") is None
    for at, reason, since in [
        (0.0, Reason.CONNECTION_REFUSED, 0.0),
        (5.0, Reason.CONNECTION_REFUSED, 0.0),
        (9.0, Reason.UPSTREAM_STATUS, 9.0),
        (11.0, None, 11.0),
        (12.0, None, 11.0),
    ]:
        health.note("gpu", Probe(reason, f"at {at}", at))
        standing = health.state("gpu")
        assert standing is not None
        assert (standing.reason, standing.since, standing.at) == (reason, since, at)
        assert standing.detail == f"at {at}"


def test_a_failed_connection_is_remembered_for_two_seconds() -> None:
    health = Health()
    health.attempt_failed("gpu", 10.0)
    assert "gpu" in health.failing(11.9)
    assert "cpu" not in health.failing(11.9)
    assert "gpu" not in health.failing(12.0)
    assert not health.failing(0.0)


def test_an_answer_wipes_the_failure_out() -> None:
    health = Health()
    health.attempt_worked("gpu")
    health.attempt_failed("gpu", 0.0)
    assert "gpu" in health.failing(0.0)
    health.attempt_worked("gpu")
    assert not health.failing(0.0)
    assert "gpu" not in health.failing(0.0)


def test_a_probe_that_finds_nobody_counts_as_a_failed_connection() -> None:
    health = Health()
    health.note("gpu", Probe(Reason.CONNECTION_REFUSED, "", 0.0))
    assert "gpu" in health.failing(1.0)
    health.note("gpu", Probe(None, "", 1.0))
    assert not health.failing(0.0)
    health.note("gpu", Probe(Reason.UPSTREAM_STATUS, "", 1.0))
    assert not health.failing(0.0)


def test_backends_that_are_gone_are_forgotten() -> None:
    health = Health()
    for label in ("gpu", "cpu"):
        health.note(label, Probe(Reason.CONNECTION_REFUSED, "", 0.0))
    health.keep({"cpu"})
    assert health.state("gpu") is None
    assert health.state("cpu") is not None
    assert "gpu" not in health.failing(0.0)
    assert "cpu" in health.failing(0.0)


def test_what_failed_longest_ago_is_forgotten_first_whoever_asks() -> None:
    health = Health()
    health.attempt_failed("gone", 0.0)
    health.attempt_failed("gpu", 0.5)
    health.attempt_failed("gone", 1.0)  # again: it counts from now
    assert health.failing(2.4) == {"gone", "gpu"}
    assert health.failing(2.5) == {"gone"}
    assert health.failing(3.0) == set()
    assert not health.failing(0.0)
