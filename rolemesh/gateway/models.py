"""What is reachable now, and why the rest is not: /v1/models, /v1/models/{id}, /ready.

Looks first (probes), then tells; nothing here is remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from attrs import frozen

from rolemesh.core.access import may_use
from rolemesh.core.health import Health, Reason
from rolemesh.core.registry import Registry
from rolemesh.core.routing import Exclusion, Plan, availability, summary
from rolemesh.core.types import Alias, Caller
from rolemesh.errors import ModelNotFound, NoAvailableBackend
from rolemesh.gateway import doors
from rolemesh.gateway.live import Live
from rolemesh.gateway.probes import Prober
from rolemesh.gateway.view import node_state
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.request import Request
from rolemesh.wire import openai


@frozen
class Availability:
    """The truth about aliases, at the moment of asking."""

    registry: Registry
    health: Health
    prober: Prober

    async def look(self, aliases: Iterable[Alias]) -> dict[str, Plan]:
        """By alias: usable candidates, and why others are out."""
        now = asyncio.get_running_loop().time
        wanted = tuple(aliases)
        candidates = (
            each
            for alias in wanted
            for each in alias.backends or self.registry.serving(alias.role or "", now()).candidates
        )
        backends = {each.backend.label: each.backend for each in candidates}
        await self.prober.look(backends.values())
        return {
            alias.name: availability(alias, self.registry, self.health, now()) for alias in wanted
        }


class Models:
    """Handlers. `reloads` gives the last reload's result and time, for /ready's body."""

    def __init__(
        self,
        live: Callable[[], Live],
        truth: Availability,
        refuse_loop: Callable[[Request], None],
        reloads: Callable[[], dict[str, Any]],
    ) -> None:
        self._live = live
        self._truth = truth
        self._refuse_loop = refuse_loop
        self._reloads = reloads
        self._created = int(time.time())
        self._now = asyncio.get_running_loop().time

    async def every(self, inbound: Inbound) -> Answer:
        live = self._live()
        caller = doors.client_or_admin(live, inbound)
        self._refuse_loop(inbound.request)
        aliases = [alias for alias in live.table.aliases if may_use(caller, alias.name)]
        plans = await self._truth.look(aliases)
        told = openai.ModelList(
            models=[self._entry(a, plans[a.name]) for a in aliases if plans[a.name].candidates],
            unavailable=[
                self._out(a, plans[a.name]) for a in aliases if not plans[a.name].candidates
            ],
            default_model=self._default_model(live, caller),
            nodes=None if caller.models is not None else self._nodes(),
        )
        return Answer.json(openai.model_list(told))

    async def one(self, inbound: Inbound) -> Answer:
        live = self._live()
        caller = doors.client_or_admin(live, inbound)
        self._refuse_loop(inbound.request)
        alias = live.table.find_for(caller, inbound.params["id"])
        plan = (await self._truth.look([alias]))[alias.name]
        if not plan.candidates:
            raise ModelNotFound(
                "The model is not available now: GET /v1/models says why.", param="model"
            )
        return Answer.json(self._entry(alias, plan))

    async def ready(self, inbound: Inbound) -> Answer:
        """Anyone may ask, so there is a word and no detail."""
        live = self._live()
        default = live.table.default
        aliases = live.table.aliases if default is None else (default,)
        plans = await self._truth.look(aliases)
        body: dict[str, Any] = {"status": "ready", "last_reload": self._reloads()}
        if any(plan.candidates for plan in plans.values()):
            return Answer.json(body)
        outs = [summary(alias, plans[alias.name].reasons) for alias in aliases]
        reason = outs[0].reason if outs else Reason.NO_MODEL
        error = NoAvailableBackend(reason.meaning)
        body |= {"status": "unavailable", "reason": reason.value, **openai.error_envelope(error)}
        return Answer.json(body, error.status)

    def _entry(self, alias: Alias, plan: Plan) -> dict[str, Any]:
        return openai.model_entry(alias, backends=len(plan.candidates), created=self._created)

    def _out(self, alias: Alias, plan: Plan) -> dict[str, Any]:
        why = summary(alias, plan.reasons)
        since = self._created if why.since is None else self._at(why)
        return openai.unavailable_entry(
            alias, reason=why.reason.value, detail=why.detail, since=since
        )

    def _at(self, why: Exclusion) -> int:
        """Seconds since the epoch."""
        return int(time.time() - (self._now() - (why.since or 0.0)))

    def _default_model(self, live: Live, caller: Caller) -> str | None:
        default = live.table.default
        if default is None or not may_use(caller, default.name):
            return None
        return live.config.default_model

    def _nodes(self) -> list[dict[str, Any]]:
        now, registry = self._now(), self._truth.registry
        return [
            openai.node_entry(
                lease.node_id,
                node_state(registry, lease, now),
                now - lease.renewed_at,
                lease.by_role,
            )
            for lease in registry.leases(now)
        ]
