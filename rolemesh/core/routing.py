"""Alias -> ordered candidates, or the reason there is none.

`plan` is on the path of every request: an alias with one backend costs next to nothing, a role's
candidates come ready-made from the registry. Why something is out is worked out only when somebody
asks, because no request that is served needs it. Reads the registry and health; changes neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from itertools import chain

import msgspec
from attrs import frozen

from rolemesh.core.access import check_model, model_not_allowed
from rolemesh.core.health import Health, Reason
from rolemesh.core.lease import Lease
from rolemesh.core.registry import Registry
from rolemesh.core.strategy import order
from rolemesh.core.types import Alias, Caller, Candidate, ModelState
from rolemesh.errors import InvalidValue, ModelNotFound

_NAMED = 3  # a summary names so many backends, and counts the rest


@frozen
class Exclusion:
    """A backend (or, summed up, an alias) that is out, and why. `since`: monotonic, where known."""

    label: str
    reason: Reason
    detail: str
    since: float | None = None


@frozen
class Plan:
    """`candidates` in the order in which to try them. `reasons` is filled by `plan` only when there
    is no candidate, and by `availability` always."""

    candidates: Collection[Candidate]
    reasons: tuple[Exclusion, ...] = ()


class Table:
    """Every alias by both names that a client may send. `config` saw that none overlap."""

    def __init__(self, aliases: Iterable[Alias], default_model: str | None = None) -> None:
        self.aliases: tuple[Alias, ...] = tuple(aliases)
        self._by_name = {alias.openai_model_name: alias for alias in self.aliases}
        self._by_name.update((alias.name, alias) for alias in self.aliases)
        self.default: Alias | None = None
        if default_model is not None:
            self.default = self._by_name[default_model]

    def get(self, name: str) -> Alias | None:
        return self._by_name.get(name)

    def find(self, model: str | None) -> Alias:
        """None: the request has no `model`. Raises ModelNotFound, InvalidValue."""
        if model is None:
            if self.default is None:
                raise InvalidValue("The request has no model: set one.", param="model")
            return self.default
        alias = self._by_name.get(model)
        if alias is None:
            raise ModelNotFound(
                "The model does not exist: GET /v1/models lists those that do.", param="model"
            )
        return alias

    def find_for(self, caller: Caller, model: str | None) -> Alias:
        """As `find`, within the caller's limits: to a limited key, all other aliases look the same,
        known or unknown. Raises ModelNotAllowed besides."""
        if caller.models is None:
            return self.find(model)
        try:
            alias = self.find(model)
        except ModelNotFound:
            raise model_not_allowed() from None
        check_model(caller, alias.name)
        return alias


def plan(
    alias: Alias,
    registry: Registry,
    health: Health,
    now: float,
    turn: int,
    chance: Callable[[int], int],
) -> Plan:
    """`turn` counts the alias's requests; `chance(n)` is random.randrange or its like."""
    if alias.role is None and len(alias.backends) == 1:
        return Plan(alias.backends)
    failing = health.failing(now)
    if alias.role is None:
        return _planned([order(alias.strategy, alias.backends, turn, chance)], failing)
    serving = registry.serving(alias.role, now)
    tiers = serving.ready_first if alias.prefer_ready else serving.tiers
    if not tiers:
        return Plan((), exclusions(alias, registry, now))
    return _planned([order(alias.strategy, tier, turn, chance) for tier in tiers], failing)


def model_to_send(alias: Alias, candidate: Candidate, requested: str | None) -> str:
    """What goes into `model` of the forwarded body. `requested`: what the client sent there.
    (That `defaults.model` is a string is checked by `config`.)"""
    if candidate.model_id is not None:
        return candidate.model_id
    default = alias.defaults.get("model")
    if default is not None:
        return msgspec.json.decode(default, type=str)
    return alias.openai_model_name if requested is None else requested


def exclusions(alias: Alias, registry: Registry, now: float) -> tuple[Exclusion, ...]:
    """Why nodes of a discovered alias are not among its candidates; for a proxy alias, nothing."""
    if alias.role is None:
        return ()
    leases = registry.by_role(alias.role, now)
    if not leases:
        return (Exclusion(alias.name, Reason.NO_NODE, f"no node serves role {alias.role}"),)
    return tuple(
        exclusion
        for lease in leases
        for exclusion in _lease_exclusions(lease, alias.role, registry, now)
    )


def availability(alias: Alias, registry: Registry, health: Health, now: float) -> Plan:
    """The candidates whose last probe did not fail, and why everything else is out."""
    candidates = alias.backends
    if alias.role is not None:
        candidates = registry.serving(alias.role, now).candidates
    out = {
        candidate.backend.label: found
        for candidate in candidates
        if (found := _probed_out(candidate, health)) is not None
    }
    usable = tuple(candidate for candidate in candidates if candidate.backend.label not in out)
    return Plan(usable, (*out.values(), *exclusions(alias, registry, now)))


def summary(alias: Alias, reasons: Sequence[Exclusion]) -> Exclusion:
    """One word and one line for a whole alias that is out: what a fresh node or a probed backend
    says counts for more than that others are stale."""
    if not reasons:
        return Exclusion(alias.name, Reason.NO_NODE, "nothing is configured to serve it")
    first = next((one for one in reasons if one.reason is not Reason.NODE_STALE), None)
    reason = Reason.NO_FRESH_NODE if first is None else first.reason
    detail = "; ".join(one.detail for one in reasons[:_NAMED])
    if len(reasons) > _NAMED:
        detail += f"; and {len(reasons) - _NAMED} more"
    # It is out since the last of them went.
    instants = [one.since for one in reasons if one.since is not None]
    return Exclusion(alias.name, reason, detail, max(instants, default=None))


class _InTurn(Collection[Candidate]):
    """One tier after the other, and at the end those of all that failed a moment ago. Found as it
    is read: a request that is served at once looks at one of 500."""

    __slots__ = ("_failing", "_tiers")

    def __init__(self, tiers: Sequence[Collection[Candidate]], failing: Container[str]) -> None:
        self._tiers = tiers
        self._failing = failing

    def __len__(self) -> int:
        return sum(map(len, self._tiers))

    def __contains__(self, candidate: object) -> bool:
        return any(candidate in tier for tier in self._tiers)

    def __iter__(self) -> Iterator[Candidate]:
        last: list[Candidate] = []
        for candidate in chain.from_iterable(self._tiers):
            if candidate.backend.label in self._failing:
                last.append(candidate)
            else:
                yield candidate
        yield from last


def _planned(tiers: Sequence[Collection[Candidate]], failing: Collection[str]) -> Plan:
    return Plan(_InTurn(tiers, failing) if failing or len(tiers) > 1 else tiers[0])


def _lease_exclusions(
    lease: Lease, role: str, registry: Registry, now: float
) -> Iterator[Exclusion]:
    node_id = lease.node_id
    if not registry.is_fresh(lease, now):
        detail = f"{node_id} stale for {now - lease.renewed_at:.0f} s"
        since = lease.renewed_at + registry.stale_after_s
        yield Exclusion(node_id, Reason.NODE_STALE, detail, since)
        return
    if lease.draining:
        yield Exclusion(node_id, Reason.NODE_DRAINING, f"{node_id} is drained by an operator")
        return
    for model in lease.served_models:
        if role not in model.roles:
            continue
        why = "" if model.detail is None else f": {model.detail}"
        named = f"{model.model_id} on {node_id}"
        if model.state is ModelState.FATAL:
            yield Exclusion(node_id, Reason.MODEL_FAILED, f"{named} has failed{why}")
        elif model.state is ModelState.DRAINING:
            yield Exclusion(node_id, Reason.NODE_DRAINING, f"{named} is draining{why}")


def _probed_out(candidate: Candidate, health: Health) -> Exclusion | None:
    label = candidate.backend.label
    standing = health.state(label)
    if standing is None or standing.reason is None:
        return None
    return Exclusion(label, standing.reason, f"{label}: {standing.detail}", standing.since)
