"""How nodes and backends are shown to operators: values in, JSON values out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rolemesh.core.health import Health, Reason
from rolemesh.core.lease import Lease
from rolemesh.core.registry import Registry
from rolemesh.core.types import Alias, Candidate, ServedModel


def node_state(registry: Registry, lease: Lease, now: float) -> str:
    """fresh, stale or draining: as in metrics."""
    if not registry.is_fresh(lease, now):
        return "stale"
    return "draining" if lease.draining else "fresh"


def node(
    registry: Registry, health: Health, lease: Lease, now: float, in_flight: Callable[[str], int]
) -> dict[str, Any]:
    metrics = lease.metrics or {}
    return {
        "node_id": lease.node_id,
        "base_url": str(lease.url),
        "state": node_state(registry, lease, now),
        **_why(_node_reason(registry, health, lease, now)),
        "age_s": round(now - lease.renewed_at, 1),
        "registered_s": round(now - lease.registered_at, 1),
        "draining": lease.draining,
        "roles": list(lease.by_role),
        "served_models": [
            _served(model, in_flight(f"{lease.node_id}/{model.model_id}"))
            for model in lease.served_models
        ],
        "devices": list(metrics.get("devices", ())),
        "host": dict(metrics.get("host", {})),
        "meta": dict(lease.meta),
    }


def backend(health: Health, alias: Alias, candidate: Candidate, in_flight: int) -> dict[str, Any]:
    standing = health.state(candidate.backend.label)
    reason = None if standing is None else standing.reason
    return {
        "alias": alias.name,
        "name": candidate.backend.name,
        "base_url": str(candidate.backend.url),
        "model_id": candidate.model_id,
        "state": "reachable" if reason is None else "unreachable",
        **_why(None if standing is None or reason is None else (reason, standing.detail)),
        "in_flight": in_flight,
        "max_in_flight": candidate.limit,
    }


def _served(model: ServedModel, in_flight: int) -> dict[str, Any]:
    return {
        "model_id": model.model_id,
        "roles": list(model.roles),
        "state": None if model.state is None else model.state.value,
        "slots": model.slots,
        "slots_busy": model.slots_busy,
        "max_context": model.max_context,
        "detail": model.detail,
        "in_flight": in_flight,
        "meta": dict(model.meta),
    }


def _node_reason(
    registry: Registry, health: Health, lease: Lease, now: float
) -> tuple[Reason, str] | None:
    if not registry.is_fresh(lease, now):
        return Reason.NODE_STALE, f"not heard of for {now - lease.renewed_at:.0f} s"
    if lease.draining:
        return Reason.NODE_DRAINING, "drained by an operator"
    standing = health.state(lease.node_id)
    if standing is not None and standing.reason is not None:
        return standing.reason, standing.detail
    return None


def _why(reason: tuple[Reason, str] | None) -> dict[str, Any]:
    if reason is None:
        return {"reason": None, "detail": None}
    return {"reason": reason[0].value, "detail": reason[1]}
