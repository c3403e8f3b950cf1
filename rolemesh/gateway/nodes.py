"""What nodes and operators say of nodes: register, heartbeat, goodbye, drain, resume; and the list.

Each is one call of core/registry, which judges the caller's limits itself. `changed` is told when
something happened that has to be stored or that waiting requests want to know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from rolemesh.core.lease import Lease
from rolemesh.core.registry import Registry
from rolemesh.errors import InvalidApiKey
from rolemesh.gateway import doors, view
from rolemesh.gateway.live import Live
from rolemesh.gateway.models import Availability
from rolemesh.gateway.slots import Slots
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.wire import registration

log = logging.getLogger("rolemesh.gateway")


class Nodes:
    """Handlers."""

    def __init__(
        self,
        live: Callable[[], Live],
        truth: Availability,
        slots: Slots,
        changed: Callable[[], None],
    ) -> None:
        self._live = live
        self._truth = truth
        self._slots = slots
        self._changed = changed
        self._now = asyncio.get_running_loop().time

    @property
    def _registry(self) -> Registry:
        return self._truth.registry

    async def register(self, inbound: Inbound) -> Answer:
        live = self._live()
        caller = doors.node(live, inbound)
        wish = registration.parse_register(await inbound.request.body(live.max_body_bytes))
        now, before = self._now(), self._registry.get(wish.node_id)
        lease = self._registry.register(wish, caller, now)
        if before is None or not self._registry.is_fresh(before, now):
            log.info("node %s registered: %s", lease.node_id, lease.url)
        else:
            _warn_of_another(before, lease)
        return self._accepted(lease.node_id)

    async def heartbeat(self, inbound: Inbound) -> Answer:
        live = self._live()
        caller = doors.node(live, inbound)
        beat = registration.parse_heartbeat(await inbound.request.body(live.max_body_bytes))
        lease = self._registry.heartbeat(beat, caller, self._now())
        return self._accepted(lease.node_id)

    async def goodbye(self, inbound: Inbound) -> Answer:
        live = self._live()
        node_id = inbound.params["node_id"]
        try:
            doors.admin(live, inbound)
        except InvalidApiKey:
            self._registry.goodbye(node_id, doors.node(live, inbound))
        else:
            self._registry.goodbye(node_id)
        log.info("node %s has left", node_id)
        self._changed()
        return Answer.json({"status": "ok", "node_id": node_id})

    async def drain(self, inbound: Inbound) -> Answer:
        doors.admin(self._live(), inbound)
        self._registry.drain(inbound.params["node_id"])
        log.info("node %s is drained", inbound.params["node_id"])
        self._changed()
        return self._told(inbound.params["node_id"])

    async def resume(self, inbound: Inbound) -> Answer:
        doors.admin(self._live(), inbound)
        self._registry.resume(inbound.params["node_id"])
        log.info("node %s is resumed", inbound.params["node_id"])
        self._changed()
        return self._told(inbound.params["node_id"])

    async def every(self, inbound: Inbound) -> Answer:
        live = self._live()
        doors.admin(live, inbound)
        now, health = self._now(), self._truth.health
        leases = self._registry.leases(now)
        candidates = [(alias, each) for alias in live.table.aliases for each in alias.backends]
        looked_at = [each.backend for _, each in candidates]
        looked_at += [lease.backend for lease in leases if self._registry.is_fresh(lease, now)]
        await self._truth.prober.look(looked_at)
        in_flight = self._slots.in_flight
        return Answer.json(
            {
                "nodes": [
                    view.node(self._registry, health, lease, now, in_flight) for lease in leases
                ],
                "backends": [
                    view.backend(health, alias, each, in_flight(each.key))
                    for alias, each in candidates
                ],
                "drains": sorted(self._registry.drains),
            }
        )

    def _accepted(self, node_id: str) -> Answer:
        self._changed()
        return Answer.json(registration.accepted(node_id, self._registry.stale_after_s))

    def _told(self, node_id: str) -> Answer:
        lease = self._registry.get(node_id)
        state: dict[str, Any] = {"status": "ok", "node_id": node_id}
        if lease is not None:
            state["state"] = view.node_state(self._registry, lease, self._now())
        return Answer.json(state)


def _warn_of_another(before: Lease, lease: Lease) -> None:
    """Two nodes of one name take each other's lease, and neither can notice."""
    if (before.url, before.access_token) != (lease.url, lease.access_token):
        log.warning(
            "%s registered from %s without having left %s: do two nodes have this node_id?",
            lease.node_id,
            lease.url,
            before.url,
        )
