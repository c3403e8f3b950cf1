"""From a checked configuration to the values that the rest of the program works with.

What is left out in the file (a name, a role, a timeout) is filled in here, once. Pure; `gateway`
calls it at start and at each reload.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rolemesh.config.schema_auth import AdminKey, ClientKey, KeySource, NodeKey
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_models import ModelSection, ModelTimeouts, ProxyModel, Upstream
from rolemesh.core.access import Key, Keyring, digest_of
from rolemesh.core.types import (
    Alias,
    Backend,
    BaseUrl,
    Caller,
    Candidate,
    Network,
    Strategy,
    Timeouts,
)

_KINDS = {ClientKey: "client", NodeKey: "node", AdminKey: "admin"}
_PROXY_URL_NAME = "proxy"  # what the one server of a proxy_url is called


def aliases(config: GatewayFile) -> tuple[Alias, ...]:
    """In the order of the file."""
    return tuple(_alias(name, model, config.timeouts) for name, model in config.models.items())


def default_alias(config: GatewayFile) -> str | None:
    """The alias that `default_model` means, which may also be written as an openai_model_name."""
    wanted = config.default_model
    if wanted is None or wanted in config.models:
        return wanted
    models = config.models.items()
    return next(alias for alias, model in models if model.offer.openai_model_name == wanted)


def keyring(keys: Sequence[ClientKey | NodeKey | AdminKey]) -> Keyring:
    """A key without a name is called after its place in the list; its key_id is its digest's, so
    that it survives being moved or renamed."""
    return Keyring(_key(each, number) for number, each in enumerate(keys, 1))


def trusted(config: GatewayFile) -> tuple[tuple[Network, ...], tuple[str, ...]]:
    """The proxies whose X-Forwarded-For is believed: networks, and names yet to be resolved."""
    proxies = config.gateway.trusted_proxies
    networks = tuple(proxy for proxy in proxies if not isinstance(proxy, str))
    return networks, tuple(proxy for proxy in proxies if isinstance(proxy, str))


def state_path(configured: str | None, file_name: str, env: Mapping[str, str]) -> str:
    """Where state is kept: as configured, else in systemd's state directory, else in the user's."""
    if configured is not None:
        return configured
    given = env.get("STATE_DIRECTORY", "").split(":")[0]
    home = env.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # the XDG base directory specification: relative ones are ignored
        home = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return os.path.join(given or os.path.join(home, "rolemesh"), file_name)


def server_name(url: BaseUrl) -> str:
    """What a backend without a name is called."""
    return f"{url.host}:{url.port}"


def key_digest(source: KeySource) -> bytes:
    if source.key_hash is not None:
        return bytes.fromhex(source.key_hash.removeprefix("sha256:"))
    return digest_of(source.key or "")


def _alias(name: str, model: ModelSection, timeouts: Timeouts) -> Alias:
    offer = model.offer
    parts: dict[str, Any] = {
        "name": name,
        "openai_model_name": offer.openai_model_name or name,
        "queue_s": offer.queue_s,
        "timeouts": _timeouts(offer.timeouts, timeouts),
        "defaults": {key: json.dumps(value).encode() for key, value in offer.defaults.items()},
    }
    if isinstance(model, ProxyModel):
        return Alias(backends=_candidates(name, model), **parts)
    return Alias(
        role=model.role or name,
        strategy=Strategy(model.strategy),
        prefer_ready=model.prefer_ready,
        **parts,
    )


def _timeouts(own: ModelTimeouts, general: Timeouts) -> Timeouts:
    return Timeouts(
        connect_s=own.connect_s or general.connect_s,
        first_byte_s=own.first_byte_s or general.first_byte_s,
        idle_s=own.idle_s or general.idle_s,
    )


def _candidates(alias: str, model: ProxyModel) -> tuple[Candidate, ...]:
    if model.proxy_url is not None:
        return (_candidate(alias, _PROXY_URL_NAME, model.proxy_url, model.upstream),)
    return tuple(
        _candidate(alias, each.name or server_name(each.base_url), each.base_url, each.upstream)
        for each in model.backends
    )


def _candidate(alias: str, name: str, url: BaseUrl, upstream: Upstream) -> Candidate:
    label = f"{alias}/{name}"
    backend = Backend(
        label=label, name=name, url=url, auth=_credential(upstream), ca_file=upstream.ca_file
    )
    return Candidate(
        backend=backend, model_id=upstream.model_id, key=label, limit=upstream.max_in_flight
    )


def _credential(upstream: Upstream) -> tuple[str, str] | None:
    if not upstream.auth_token:
        return None
    if upstream.auth_scheme and upstream.auth_header.lower() == "authorization":
        return upstream.auth_header, f"{upstream.auth_scheme} {upstream.auth_token}"
    return upstream.auth_header, upstream.auth_token


def _key(key: ClientKey | NodeKey | AdminKey, number: int) -> Key:
    digest = key_digest(key.source)
    # Not the digest itself: key_ids are stored, and shown to operators.
    key_id = hashlib.sha256(digest).hexdigest()[:16]
    name = key.source.name or f"{_KINDS[type(key)]}-{number}"
    match key:
        case ClientKey():
            return Key(digest, Caller(name, key_id, models=_set(key.models)))
        case NodeKey():
            node_ids, roles = _set(key.node_ids), _set(key.roles)
            caller = Caller(name, key_id, node_ids=node_ids, roles=roles, networks=key.networks)
            return Key(digest, caller)
        case AdminKey():
            return Key(digest, Caller(name, key_id))


def _set(values: Sequence[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
