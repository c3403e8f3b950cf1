"""What operators are shown of a node, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from rolemesh.core.devices import Device, DeviceFigures
from rolemesh.core.lifecycle import State
from rolemesh.node.charge import Charge
from rolemesh.node.gpu import Gpus

_NONE = DeviceFigures()


def device(each: Device, gpus: Gpus, charges: Sequence[Charge]) -> dict[str, Any]:
    figures = attrs.asdict(gpus.figures(each.id) or _NONE)
    if figures["memory_total_bytes"] is None:
        figures["memory_total_bytes"] = each.memory_total_bytes
    holder = next((charge.model_id for charge in charges if each.id in charge.devices), None)
    return {"id": each.id, "index": each.index, "name": each.name, "model": holder, **figures}


def child(charge: Charge, now: float) -> dict[str, Any]:
    """`since_s`: how long it has been in its state; `uptime_s`: how long its process has run."""
    run, state = charge.run, charge.child.state
    facts = None if run is None else run.facts
    return {
        "model": charge.model_id,
        "state": state.value,
        "since_s": round(now - charge.child.since, 1),
        "devices": list(charge.devices),
        "pid": None if run is None else run.pid,
        "port": None if run is None else run.port,
        "uptime_s": None if run is None else run.uptime_s(now),
        "restarts": charge.child.restarts,
        "last_error": charge.child.reason,
        "load_s": None if charge.loaded_s is None else round(charge.loaded_s, 3),
        "in_flight": charge.in_flight,
        "waiting": len(charge.waiters),
        "slots": charge.section.parallel if facts is None else facts.slots,
        "max_context": None if facts is None else facts.max_context,
        "roles": list(charge.section.roles),
        "pinned": charge.section.pinned,
    }


def model(charge: Charge, created: int) -> dict[str, Any]:
    """An entry of /v1/models. `created`: seconds since the epoch."""
    return {
        "id": charge.model_id,
        "object": "model",
        "created": created,
        "owned_by": "rolemesh",
        "rolemesh": {"state": charge.child.state.value, "roles": list(charge.section.roles)},
    }


def is_usable(charge: Charge, now: float) -> bool:
    """Whether a request for it has a chance."""
    return charge.child.state is not State.FATAL or charge.child.may_retry(now)
