"""Leases: who says it serves what, and until when.

A map with four verbs (register, heartbeat, goodbye, drain) and a filter at read time: a node is
stale because `now` is late, so nothing has to fire for it to leave routing. Fed by the gateway's
node routes, read by routing and by whoever shows nodes. Every verb judges the caller's limits, so
that none can be forgotten. Drains are a set of their own: they survive goodbye and registering
again. `version` grows whenever something changed that has to be stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from attrs import evolve, frozen

from rolemesh.core.access import check_node
from rolemesh.core.lease import Lease, from_record, grant, to_record
from rolemesh.core.types import Caller, Candidate, Heartbeat, Registration, ServedModel
from rolemesh.errors import InvalidValue, NotAllowed, UnknownNode

MAX_NODES = 1000
HEARTBEAT_INTERVAL_S = 10.0
_FORMAT = 1


def heartbeat_interval(stale_after_s: float) -> float:
    """Asked of nodes: two may be lost before a node turns stale."""
    return min(HEARTBEAT_INTERVAL_S, stale_after_s / 3)


Tier = tuple[Candidate, ...]


@frozen
class Serving:
    """The candidates of a role: of every fresh node that is not draining. Those of a tier are
    equals, one of each node: the first model of each comes before the second of any. `ready_first`
    has all that are ready before the others. True until `until`, unless something changes."""

    tiers: tuple[Tier, ...]
    ready_first: tuple[Tier, ...]
    until: float

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(chain.from_iterable(self.tiers))


class Registry:
    """All instants are monotonic seconds and must not go back."""

    def __init__(self, stale_after_s: float, forget_after_s: float) -> None:
        self.stale_after_s = stale_after_s
        self.forget_after_s = forget_after_s
        self.version = 0
        self._leases: dict[str, Lease] = {}
        self._drains: set[str] = set()
        self._nodes_of: dict[str, dict[str, None]] = {}  # role -> node_ids, in order
        self._serving: dict[str, Serving] = {}
        self._none_older = math.inf  # no lease was renewed before this instant

    def retime(self, stale_after_s: float, forget_after_s: float) -> None:
        """Other times after a reload."""
        self.stale_after_s = stale_after_s
        self.forget_after_s = forget_after_s
        self._serving.clear()

    # What nodes do

    def register(self, registration: Registration, caller: Caller, now: float) -> Lease:
        """Idempotent. Raises NotAllowed, or InvalidValue when there are 1,000 nodes already."""
        node_id = registration.node_id
        _check(caller, node_id, registration.served_models, registration.url.host)
        self._forget(now)
        old = self._leases.get(node_id)
        lease = grant(registration, caller, now)
        if old is None:
            if len(self._leases) >= MAX_NODES:
                raise InvalidValue(
                    f"There are {MAX_NODES} nodes already: deregister those that are gone.",
                    param="node_id",
                )
        else:
            _check_taking_over(caller, old)
            lease = evolve(lease, registered_at=old.registered_at, metrics=old.metrics)
        return self._put(evolve(lease, draining=node_id in self._drains), now)

    def heartbeat(self, beat: Heartbeat, caller: Caller, now: float) -> Lease:
        """Raises NotAllowed, or UnknownNode: the node registers again. The key that replaces the
        models answers for them: the lease ends with it."""
        check_node(caller, beat.node_id, (), "")
        self._forget(now)
        old = self._lease(beat.node_id)
        models = old.served_models if beat.served_models is None else beat.served_models
        _check(caller, beat.node_id, models, old.url.host)
        lease = old.serving(models)
        if beat.served_models is not None and old.key_id != caller.key_id:
            _check_taking_over(caller, old)
            lease = evolve(lease, key_id=caller.key_id)
        if lease.key_id == caller.key_id:
            lease = lease.within(caller.networks)
        metrics = old.metrics if beat.metrics is None else beat.metrics
        return self._put(evolve(lease, renewed_at=now, metrics=metrics), now)

    def goodbye(self, node_id: str, caller: Caller | None = None) -> None:
        """`caller` None: an operator. Raises NotAllowed, UnknownNode."""
        if caller is not None:
            check_node(caller, node_id, (), "")
        lease = self._lease(node_id)
        if caller is not None:
            _check(caller, node_id, lease.served_models, lease.url.host)
        self._drop(lease)

    # What operators do

    def drain(self, node_id: str) -> Lease:
        """No new requests until `resume`, whatever the node does. Raises UnknownNode."""
        lease = self._lease(node_id)
        self._drains.add(node_id)
        return self._set_draining(lease, True)

    def resume(self, node_id: str) -> Lease | None:
        """None when the drained node is not registered now. Raises UnknownNode."""
        if node_id not in self._drains:
            return self._lease(node_id)
        self._drains.discard(node_id)
        self.version += 1
        lease = self._leases.get(node_id)
        return None if lease is None else self._set_draining(lease, False)

    def revoke(self, callers: Mapping[str, Caller]) -> None:
        """End the leases that could not be registered now, because their key is no more or was
        narrowed. `callers`: the holders of all keys, by key_id. Leases without a key (an empty list
        admits loopback) last while there are no keys."""
        for lease in list(self._leases.values()):
            if lease.key_id is None:
                allowed = None if callers else lease
            else:
                allowed = _allowed(lease, callers.get(lease.key_id))
            if allowed is None:
                self._drop(lease)
            elif allowed is not lease:
                self._swap(allowed)

    # What others read

    @property
    def drains(self) -> frozenset[str]:
        """The node_ids under drain, registered or not."""
        return frozenset(self._drains)

    def is_fresh(self, lease: Lease, now: float) -> bool:
        return now - lease.renewed_at <= self.stale_after_s

    def get(self, node_id: str) -> Lease | None:
        return self._leases.get(node_id)

    def leases(self, now: float) -> Sequence[Lease]:
        """All of them, fresh and stale."""
        self._forget(now)
        return tuple(self._leases.values())

    def by_role(self, role: str, now: float) -> Sequence[Lease]:
        """Those that offer the role, fresh and stale alike, in the order of registering."""
        since = now - self.forget_after_s
        found = (self._leases[node_id] for node_id in self._nodes_of.get(role, ()))
        return [lease for lease in found if lease.renewed_at >= since]

    def serving(self, role: str, now: float) -> Serving:
        """Kept between requests: a renewal can only make it last longer than it says."""
        serving = self._serving.get(role)
        if serving is None or now > serving.until:
            serving = self._serving_now(role, now)
            if role in self._nodes_of:
                self._serving[role] = serving
        return serving

    # What outlives the process

    def dump(self, now: float) -> dict[str, Any]:
        """JSON values: instants as ages in seconds, tokens included."""
        nodes = [to_record(lease, now) for lease in self._leases.values()]
        return {"version": _FORMAT, "nodes": nodes, "drains": sorted(self._drains)}

    def load(self, data: object, now: float, elapsed_s: float) -> None:
        """Take up what `dump` gave `elapsed_s` ago; a clock that was set back counts as no time.
        Raises ValueError, and then nothing has changed."""
        leases, drains = _read(data, now - max(0.0, elapsed_s))
        self._drains |= drains
        for lease in leases:
            self._put(evolve(lease, draining=lease.node_id in self._drains), now)
        self._forget(now)

    # The map and its index

    def _lease(self, node_id: str) -> Lease:
        lease = self._leases.get(node_id)
        if lease is None:
            raise UnknownNode("No such node is registered: register it first.")
        return lease

    def _put(self, lease: Lease, now: float) -> Lease:
        old = self._leases.get(lease.node_id)
        self._leases[lease.node_id] = lease
        self._none_older = min(self._none_older, lease.renewed_at)
        if old is None or old.by_role.keys() != lease.by_role.keys():
            self._unindex(old)
            for role in lease.by_role:
                self._nodes_of.setdefault(role, {})[lease.node_id] = None
        if old is None or old.by_role != lease.by_role or not self.is_fresh(old, now):
            self._recount(lease)
        if old is None or not (old is lease or lease.same_when_stored(old)):
            self.version += 1
        return lease

    def _drop(self, lease: Lease) -> None:
        del self._leases[lease.node_id]
        self._unindex(lease)
        self.version += 1

    def _unindex(self, lease: Lease | None) -> None:
        if lease is None:
            return
        self._recount(lease)
        for role in lease.by_role:
            nodes = self._nodes_of[role]
            nodes.pop(lease.node_id, None)
            if not nodes:
                del self._nodes_of[role]

    def _set_draining(self, lease: Lease, draining: bool) -> Lease:
        return lease if lease.draining is draining else self._swap(evolve(lease, draining=draining))

    def _swap(self, lease: Lease) -> Lease:
        """Another value for a lease of the same roles."""
        self._leases[lease.node_id] = lease
        self._recount(lease)
        self.version += 1
        return lease

    def _recount(self, lease: Lease) -> None:
        for role in lease.by_role:
            self._serving.pop(role, None)

    def _forget(self, now: float) -> None:
        """Looks at all leases only when one of them may be due: not for every heartbeat."""
        since = now - self.forget_after_s
        if self._none_older >= since:
            return
        for lease in [lease for lease in self._leases.values() if lease.renewed_at < since]:
            self._drop(lease)
        renewals = (lease.renewed_at for lease in self._leases.values())
        self._none_older = min(renewals, default=math.inf)

    def _serving_now(self, role: str, now: float) -> Serving:
        by_node: list[Tier] = []
        until = math.inf
        for lease in self.by_role(role, now):
            if lease.draining or not self.is_fresh(lease, now):
                continue
            until = min(until, lease.renewed_at + self.stale_after_s)
            by_node.append(lease.candidates(role))
        ready = [[each for each in candidates if each.ready] for candidates in by_node]
        unready = [[each for each in candidates if not each.ready] for candidates in by_node]
        return Serving(_tiers(by_node), _tiers(ready) + _tiers(unready), until)


def _tiers(by_node: Iterable[Iterable[Candidate]]) -> tuple[Tier, ...]:
    """The first of each, the second of each, ..."""
    return tuple(tuple(each for each in tier if each is not None) for tier in zip_longest(*by_node))


def _check(caller: Caller, node_id: str, models: Iterable[ServedModel], host: str) -> None:
    roles = (role for model in models for role in model.roles)
    check_node(caller, node_id, roles, host)


def _check_taking_over(caller: Caller, old: Lease) -> None:
    """Taking a node over ends what it was."""
    if old.key_id != caller.key_id:
        _check(caller, old.node_id, old.served_models, old.url.host)


def _allowed(lease: Lease, caller: Caller | None) -> Lease | None:
    """The lease within its key's present limits. None: it is beyond them, or the key is no more."""
    if caller is None:
        return None
    try:
        _check(caller, lease.node_id, lease.served_models, lease.url.host)
    except NotAllowed:
        return None
    return lease.within(caller.networks)


def _read(data: object, written_at: float) -> tuple[list[Lease], set[str]]:
    if not isinstance(data, dict) or data.get("version") != _FORMAT:
        raise ValueError("not a registry's state, or one of another version")
    nodes, drains = data.get("nodes"), data.get("drains")
    if not isinstance(nodes, list) or len(nodes) > MAX_NODES:
        raise ValueError("nodes is not a list, or too long")
    if not isinstance(drains, list) or not all(isinstance(name, str) for name in drains):
        raise ValueError("drains is not a list of node_ids")
    return [from_record(node, written_at) for node in nodes], set(drains)
