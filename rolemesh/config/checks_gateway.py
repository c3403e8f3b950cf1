"""The rules between a gateway's keys, which no single value can break alone.

`check` judges the merged configuration, `guard` what one override does to what came before. Both
yield (key path, message); `load` adds file and line. Values that could not be read are defaults
here, and what is said of them is dropped by `load`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rolemesh.config.checks_keys import AnyKey, key_list
from rolemesh.config.compile import server_name
from rolemesh.config.hosts import is_loopback, leads_to
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_models import BackendSection, DiscoveredModel, ProxyModel
from rolemesh.config.structure import nearest
from rolemesh.config.tree import Leaf, Map, Path, Seq, at, is_null, nearest_origin, shown_key
from rolemesh.core.types import BaseUrl

Flaw = tuple[Path, str]

_RESERVED_ALIASES = frozenset({"_other"})  # what metrics call an alias that is not configured
_CLIENT_KEYS = ("auth", "client_api_keys")


def check(config: GatewayFile) -> Iterator[Flaw]:
    yield from _names(config)
    yield from _default_model(config)
    for alias, model in config.models.items():
        if isinstance(model, ProxyModel):
            yield from _proxy_model(config, model, ("models", alias))
        yield from _model_default(model, ("models", alias, "defaults", "model"))
    yield from _key_lists(config)
    yield from _registry(config)


def guard(base: Map | None, over: Map) -> Iterator[Flaw]:
    """What an override may not do by accident: switch auth off."""
    if is_null(at(over, ("auth",))):
        yield ("auth",), "is null, which would switch all keys off; leave it out to change nothing"
    before, after = at(base, _CLIENT_KEYS), at(over, _CLIENT_KEYS)
    emptied = is_null(after) or (isinstance(after, Seq) and not after.items)
    if base is None or not isinstance(before, Seq) or not before.items or not emptied:
        return
    allowed = at(over, ("auth", "allow_anonymous"))
    if not isinstance(allowed, Leaf) or allowed.text.lower() not in ("true", "yes", "on"):
        origin = nearest_origin(base, _CLIENT_KEYS)
        message = (
            f"takes away the keys of {origin}: to mean it, say allow_anonymous: true beside it"
        )
        yield _CLIENT_KEYS, message


def _names(config: GatewayFile) -> Iterator[Flaw]:
    """Aliases and openai_model_names are one namespace: clients may send either."""
    owners = {alias: alias for alias in config.models}
    for alias, model in config.models.items():
        if alias in _RESERVED_ALIASES:
            yield ("models", alias), "is a name that metrics need: choose another"
        name = model.offer.openai_model_name or alias
        owner = owners.setdefault(name, alias)
        if owner != alias:
            what = "an alias" if name == owner else f"the openai_model_name of {shown_key(owner)}"
            yield ("models", alias, "openai_model_name"), f"is {what} already"


def _default_model(config: GatewayFile) -> Iterator[Flaw]:
    names = [*config.models, *(m.offer.openai_model_name or "" for m in config.models.values())]
    if config.default_model is not None and config.default_model not in names:
        hint = _perhaps(config.default_model, config.models)
        yield ("default_model",), f"is not a configured model{hint}"


def _perhaps(word: str, known: Iterable[str]) -> str:
    close = nearest(word, known)
    return f"; the nearest is {shown_key(close)}" if close else ""


def _proxy_model(config: GatewayFile, model: ProxyModel, path: Path) -> Iterator[Flaw]:
    if model.proxy_url is None and not model.backends:
        yield path, "needs proxy_url or backends"
    if model.proxy_url is not None and model.backends:
        yield (*path, "proxy_url"), "stands beside backends: write one of the two"
    if model.backends and model.upstream != type(model.upstream)():
        yield path, "has keys of one server beside backends: write them in each backend"
    if _is_itself(model.proxy_url, config):
        yield (*path, "proxy_url"), "is this gateway itself"
    taken: set[str] = set()
    for number, backend in enumerate(model.backends):
        here = (*path, "backends", number)
        if _is_itself(backend.base_url, config):
            yield (*here, "base_url"), "is this gateway itself"
        name = backend.name or server_name(backend.base_url)
        if name in taken:
            yield (*here, "name"), _same_name(backend, name)
        taken.add(name)


def _same_name(backend: BackendSection, name: str) -> str:
    message = "is the name of another backend of this model"
    if backend.name is not None:
        return message
    return f"{message}: {name}, taken from base_url; give each a name of its own with `name`"


def _is_itself(url: BaseUrl | None, config: GatewayFile) -> bool:
    return leads_to(url, config.gateway.host, config.gateway.port)


def _model_default(model: ProxyModel | DiscoveredModel, path: Path) -> Iterator[Flaw]:
    value = model.offer.defaults.get("model", "model")
    if not isinstance(value, str) or not value:
        yield path, "must be text: the model's name as the server expects it"


def _key_lists(config: GatewayFile) -> Iterator[Flaw]:
    auth = config.auth
    exposed = not is_loopback(config.gateway.host)
    if exposed and not auth.client_api_keys and not auth.allow_anonymous:
        message = "is empty while the gateway listens beyond loopback: add a key, or say"
        yield _CLIENT_KEYS, f"{message} allow_anonymous: true"
    lists: tuple[tuple[str, Sequence[AnyKey]], ...] = (
        ("client_api_keys", auth.client_api_keys),
        ("node_api_keys", auth.node_api_keys),
        ("admin_api_keys", auth.admin_api_keys),
    )
    for name, keys in lists:
        yield from key_list(keys, ("auth", name), exposed=exposed)
    for number, client in enumerate(auth.client_api_keys):
        for place, alias in enumerate(client.models or ()):
            if alias not in config.models:
                here = (*_CLIENT_KEYS, number, "models", place)
                yield here, f"is not a configured alias{_perhaps(alias, config.models)}"


def _registry(config: GatewayFile) -> Iterator[Flaw]:
    if config.registry.forget_after_s < config.registry.stale_after_s:
        yield ("registry", "forget_after_s"), "must not be less than registry.stale_after_s"
