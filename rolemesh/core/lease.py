"""A lease: one node's word on what it serves, and when it was last heard of.

Made and replaced by the registry; read by routing and by whoever shows nodes. What routing needs of
it (its backend, its candidates per role) is built once, when it registers, and carried along by
every renewal. Its stored form tells instants as ages, because a monotonic instant means nothing to
the next process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import msgspec
from attrs import Factory, evolve, field, frozen

from rolemesh.core.types import (
    Backend,
    BaseUrl,
    Caller,
    Candidate,
    ModelState,
    Network,
    Registration,
    ServedModel,
)

# STOPPED and LOADING can serve after a while; a node that says neither is taken at its word.
_READY = frozenset({None, ModelState.READY})
_OUT = frozenset({ModelState.DRAINING, ModelState.FATAL})


def _backend(lease: Lease) -> Backend:
    token = lease.access_token
    return Backend(
        label=lease.node_id,
        name=lease.node_id,
        url=lease.url,
        auth=("Authorization", f"Bearer {token}") if token else None,
        node_id=lease.node_id,
        networks=lease.networks,
    )


def _by_role(lease: Lease) -> Mapping[str, tuple[Candidate, ...]]:
    return _candidates(lease.backend, lease.served_models)


def _candidates(
    backend: Backend, models: tuple[ServedModel, ...]
) -> Mapping[str, tuple[Candidate, ...]]:
    by_role: dict[str, list[Candidate]] = {role: [] for model in models for role in model.roles}
    for model in sorted(models, key=lambda model: model.state not in _READY):
        if model.state in _OUT:
            continue
        candidate = _candidate(backend, model)
        for role in dict.fromkeys(model.roles):
            by_role[role].append(candidate)
    return {role: tuple(candidates) for role, candidates in by_role.items()}


def _candidate(backend: Backend, model: ServedModel) -> Candidate:
    return Candidate(
        backend=backend,
        model_id=model.model_id,
        key=f"{backend.label}/{model.model_id}",
        limit=model.slots or None,  # 0 slots: not loaded yet, so it cannot know
        ready=model.state in _READY,
    )


@frozen
class Lease:
    """Instants are monotonic seconds. `by_role` has every role that the node offers, with an empty
    tuple where none of its models can serve it now."""

    node_id: str
    url: BaseUrl
    served_models: tuple[ServedModel, ...]
    meta: Mapping[str, Any]
    access_token: str | None = field(repr=False)
    key_id: str | None
    networks: tuple[Network, ...] | None
    registered_at: float
    renewed_at: float
    draining: bool = False
    metrics: Mapping[str, Any] | None = field(default=None, repr=False)
    backend: Backend = field(default=Factory(_backend, takes_self=True), eq=False, repr=False)
    by_role: Mapping[str, tuple[Candidate, ...]] = field(
        default=Factory(_by_role, takes_self=True), eq=False, repr=False
    )

    def candidates(self, role: str) -> tuple[Candidate, ...]:
        """The node's models for the role that may be sent requests: ready ones first."""
        return self.by_role.get(role, ())

    def serving(self, models: tuple[ServedModel, ...]) -> Lease:
        """The same lease with another list of models."""
        if models == self.served_models:
            return self
        by_role = _candidates(self.backend, models)
        return evolve(self, served_models=models, by_role=by_role)

    def within(self, networks: tuple[Network, ...] | None) -> Lease:
        """The same lease, its key limited to other networks since."""
        if networks == self.networks:
            return self
        backend = evolve(self.backend, networks=networks)
        by_role = _candidates(backend, self.served_models)
        return evolve(self, networks=networks, backend=backend, by_role=by_role)

    def same_when_stored(self, other: Lease) -> bool:
        """Whether the state file would say the same of both, ages and busy slots aside: no
        ordinary heartbeat makes a difference."""
        return _identity(self) == _identity(other) and (
            self.served_models == other.served_models
            or _without_busy(self.served_models) == _without_busy(other.served_models)
        )


def grant(registration: Registration, caller: Caller, now: float) -> Lease:
    """A new lease, limited to the networks of the key that it was registered with."""
    return Lease(
        node_id=registration.node_id,
        url=registration.url,
        served_models=registration.served_models,
        meta=registration.meta,
        access_token=registration.access_token,
        key_id=caller.key_id,
        networks=caller.networks,
        registered_at=now,
        renewed_at=now,
    )


@frozen
class _Record:
    """A lease in the state file."""

    node_id: str
    url: BaseUrl
    served_models: tuple[ServedModel, ...]
    meta: Mapping[str, Any]
    access_token: str | None = field(repr=False)
    key_id: str | None
    networks: tuple[str, ...] | None
    registered_age_s: float
    age_s: float


def to_record(lease: Lease, now: float) -> dict[str, Any]:
    """JSON values; the token included."""
    record = _Record(
        node_id=lease.node_id,
        url=lease.url,
        served_models=lease.served_models,
        meta=lease.meta,
        access_token=lease.access_token,
        key_id=lease.key_id,
        networks=None if lease.networks is None else tuple(map(str, lease.networks)),
        registered_age_s=now - lease.registered_at,
        age_s=now - lease.renewed_at,
    )
    values: dict[str, Any] = msgspec.to_builtins(record)
    return values


def from_record(data: object, written_at: float) -> Lease:
    """`written_at`: when the record was written, on this process's clock. Raises ValueError."""
    try:
        record = msgspec.convert(data, _Record)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a lease: {error}") from None
    ages = (record.age_s, record.registered_age_s)
    if not all(math.isfinite(age) and age >= 0 for age in ages):
        raise ValueError("not a lease: an age is negative or not finite")
    if record.url.scheme not in {"http", "https"} or not 0 < record.url.port < 65536:
        raise ValueError("not a lease: its url cannot be one")
    networks = None if record.networks is None else tuple(map(ip_network, record.networks))
    return Lease(
        node_id=record.node_id,
        url=evolve(record.url),  # msgspec went past its __init__, which a cached hash needs
        served_models=record.served_models,
        meta=record.meta,
        access_token=record.access_token,
        key_id=record.key_id,
        networks=networks,
        registered_at=written_at - record.registered_age_s,
        renewed_at=written_at - record.age_s,
    )


def _identity(lease: Lease) -> tuple[object, ...]:
    return (lease.url, lease.meta, lease.access_token, lease.key_id, lease.networks)


def _without_busy(models: tuple[ServedModel, ...]) -> list[ServedModel]:
    return [evolve(model, slots_busy=None) for model in models]
