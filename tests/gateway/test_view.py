"""What operators are shown of nodes and backends."""

from __future__ import annotations

import json

import pytest

from rolemesh.core.health import Health, Probe, Reason
from rolemesh.core.registry import Registry
from rolemesh.core.types import (
    Alias,
    Backend,
    Caller,
    Candidate,
    Heartbeat,
    ModelState,
    Registration,
    ServedModel,
)
from rolemesh.gateway import view
from rolemesh.wire.url import parse_url

ANYONE = Caller("anonymous")
MODEL = ServedModel(
    "qwen3", ("reviewer", "planner"), {"quant": "Q5"}, ModelState.READY, slots=2, slots_busy=1
)
REFUSED = Probe(Reason.CONNECTION_REFUSED, "connection refused", 0.0)


@pytest.fixture
def registry() -> Registry:
    registry = Registry(30.0, 86400.0)
    url = parse_url("http://10.0.0.9:8014")
    registration = Registration("gpu", url, (MODEL,), {"gpu": "P40"}, access_token="s3cret")
    registry.register(registration, ANYONE, 0.0)
    metrics = {"devices": [{"id": "0", "memory_used_bytes": 5}], "host": {"load1": 0.5}}
    registry.heartbeat(Heartbeat("gpu", metrics=metrics), ANYONE, 10.0)
    return registry


def shown(registry: Registry, health: Health, now: float) -> dict[str, object]:
    (lease,) = registry.leases(now)
    return view.node(registry, health, lease, now, {"gpu/qwen3": 3}.__getitem__)


def test_a_node_is_shown_whole_but_for_its_token(registry: Registry) -> None:
    node = shown(registry, Health(), 12.5)
    assert node == {
        "node_id": "gpu",
        "base_url": "http://10.0.0.9:8014",
        "state": "fresh",
        "reason": None,
        "detail": None,
        "age_s": 2.5,
        "registered_s": 12.5,
        "draining": False,
        "roles": ["reviewer", "planner"],
        "served_models": [
            {
                "model_id": "qwen3",
                "roles": ["reviewer", "planner"],
                "state": "READY",
                "slots": 2,
                "slots_busy": 1,
                "max_context": None,
                "detail": None,
                "in_flight": 3,
                "meta": {"quant": "Q5"},
            }
        ],
        "devices": [{"id": "0", "memory_used_bytes": 5}],
        "host": {"load1": 0.5},
        "meta": {"gpu": "P40"},
    }
    assert "s3cret" not in json.dumps(node)


def test_a_node_that_told_no_metrics_has_none(registry: Registry) -> None:
    url = parse_url("http://10.0.0.10")
    registry.register(Registration("bare", url, ()), ANYONE, 0.0)
    bare = registry.get("bare")
    assert bare is not None
    node = view.node(registry, Health(), bare, 0.0, lambda key: 0)
    assert (node["devices"], node["host"], node["roles"]) == ([], {}, [])


@pytest.mark.parametrize(
    ("now", "drained", "probed", "state", "reason"),
    [
        (10.0, False, False, "fresh", None),
        (40.0, False, False, "fresh", None),
        (40.1, False, False, "stale", "node_stale"),
        (10.0, True, False, "draining", "node_draining"),
        (40.1, True, False, "stale", "node_stale"),
        (10.0, False, True, "fresh", "connection_refused"),
        (10.0, True, True, "draining", "node_draining"),
        (40.1, True, True, "stale", "node_stale"),
    ],
)
def test_the_weightiest_reason_is_the_one_shown(
    registry: Registry, now: float, drained: bool, probed: bool, state: str, reason: str | None
) -> None:
    health = Health()
    if drained:
        registry.drain("gpu")
    if probed:
        health.note("gpu", REFUSED)
    node = shown(registry, health, now)
    assert (node["state"], node["reason"], node["draining"]) == (state, reason, drained)
    assert (node["detail"] is None) is (reason is None)


@pytest.mark.parametrize(
    ("probe", "state", "reason"),
    [
        (None, "reachable", None),
        (Probe(None, "HTTP 200", 0.0), "reachable", None),
        (REFUSED, "unreachable", "connection_refused"),
    ],
)
def test_a_backend_is_shown_with_what_was_last_seen_of_it(
    probe: Probe | None, state: str, reason: str | None
) -> None:
    url = parse_url("https://llm.example/v1")
    backend = Backend("writer/cpu", "cpu", url, auth=("Authorization", "Bearer s3cret"))
    candidate = Candidate(backend, "qwen3", "writer/cpu", limit=64)
    health = Health()
    if probe is not None:
        health.note("writer/cpu", probe)
    assert view.backend(health, Alias("writer", "w", (candidate,)), candidate, 7) == {
        "alias": "writer",
        "name": "cpu",
        "base_url": "https://llm.example",
        "model_id": "qwen3",
        "state": state,
        "reason": reason,
        "detail": None if reason is None else "connection refused",
        "in_flight": 7,
        "max_in_flight": 64,
    }
