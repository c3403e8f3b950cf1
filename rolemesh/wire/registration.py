"""What nodes tell a gateway, and what it answers: register and heartbeat, read and written.

Fed by the gateway's handlers and, in the other direction, by the registration client. Everything
is checked here, so that the registry is given form it need not doubt. Unknown fields are ignored;
a wrong one is refused by its place (`served_models[0].roles[1]`) and never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from rolemesh.core.registry import heartbeat_interval
from rolemesh.core.types import BaseUrl, Heartbeat, ModelState, Registration, ServedModel
from rolemesh.errors import InvalidValue, RequestTooLarge
from rolemesh.wire.body import top_level
from rolemesh.wire.fields import entries, integer, mapping, printable, required, wrong
from rolemesh.wire.node_metrics import read_metrics
from rolemesh.wire.url import parse_url

MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # all of it becomes objects
MAX_MODELS = 256  # of a node
MAX_ROLES = 64  # of a model
MAX_META_BYTES = 16 * 1024  # as JSON, of a node and its models together
MAX_META_DEPTH = 16
MAX_ROLE_LENGTH = 128
MAX_MODEL_ID_LENGTH = 256
MAX_DETAIL_LENGTH = 500

_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[!-~](?:[ -~]{0,4094}[!-~])?")
_MOST = 2**53  # JSON numbers beyond are not exact everywhere

_encode = msgspec.json.Encoder().encode


def parse_register(data: bytes) -> Registration:
    """The body of POST /v1/nodes/register. Raises InvalidJson, or InvalidValue naming the field."""
    fields = _decoded(
        data, ("node_id", "base_url", "served_models", "roles", "meta", "access_token")
    )
    node_id = _node_id(fields)
    url = _base_url(required(fields, "base_url"))
    meta = _meta(fields.get("meta"), "meta")
    models = _served_models(fields.get("served_models"), _size(meta))
    flat = _flat_roles(fields.get("roles"))
    if models is None:
        models = flat
    if models is None:
        raise wrong("served_models", "is required, or roles in its place")
    return Registration(node_id, url, models, meta, _token(fields.get("access_token")))


def parse_heartbeat(data: bytes) -> Heartbeat:
    """The body of POST /v1/nodes/heartbeat. Raises InvalidJson, or InvalidValue."""
    fields = _decoded(data, ("node_id", "served_models", "metrics"))
    return Heartbeat(
        node_id=_node_id(fields),
        served_models=_served_models(fields.get("served_models"), 0),
        metrics=read_metrics(fields.get("metrics")),
    )


def accepted(node_id: str, stale_after_s: float) -> dict[str, Any]:
    """The answer to both."""
    return {
        "status": "ok",
        "node_id": node_id,
        "heartbeat_interval_s": _plain(heartbeat_interval(stale_after_s)),
        "stale_after_s": _plain(stale_after_s),
    }


def lease_length(answer: bytes) -> float | None:
    """After how many seconds without a word the node counts as stale. None: it is not said."""
    try:
        length = msgspec.json.decode(answer, type=_Lease).stale_after_s
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return length if length is not None and length > 0 else None


def asked_interval(answer: bytes) -> float | None:
    """The heartbeat interval that a gateway asked for. None: its answer says nothing usable."""
    try:
        interval = msgspec.json.decode(answer, type=_Accepted).heartbeat_interval_s
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return interval if interval is not None and 0 < interval < 86_400 else None


def register_body(registration: Registration) -> bytes:
    """What a node sends to register."""
    body: dict[str, Any] = {
        "node_id": registration.node_id,
        "base_url": str(registration.url),
        "served_models": [_told(model) for model in registration.served_models],
    }
    if registration.meta:
        body["meta"] = registration.meta
    if registration.access_token is not None:
        body["access_token"] = registration.access_token
    return _encode(body)


def heartbeat_body(beat: Heartbeat) -> bytes:
    """What a node sends to renew its lease."""
    body: dict[str, Any] = {"node_id": beat.node_id}
    if beat.served_models is not None:
        body["served_models"] = [_told(model) for model in beat.served_models]
    if beat.metrics is not None:
        body["metrics"] = beat.metrics
    return _encode(body)


class _Accepted(msgspec.Struct):
    heartbeat_interval_s: float | None = None


class _Lease(msgspec.Struct):
    stale_after_s: float | None = None


def _told(model: ServedModel) -> dict[str, Any]:
    told = {
        "model_id": model.model_id,
        "roles": model.roles,
        "meta": model.meta or None,
        "state": None if model.state is None else model.state.value,
        "slots": model.slots,
        "slots_busy": model.slots_busy,
        "max_context": model.max_context,
        "detail": model.detail,
    }
    return {key: value for key, value in told.items() if value is not None}


def _decoded(data: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """The values of these fields, as far as they are there."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise RequestTooLarge(f"A node's message has at most {MAX_MESSAGE_BYTES} bytes.")
    fields = top_level(data)
    values = {}
    for name in names:
        if name in fields:
            try:
                values[name] = msgspec.json.decode(fields[name])
            except msgspec.DecodeError:  # half of a character, a number beyond all bounds
                raise wrong(name, "holds a text or a number that cannot be read") from None
            except RecursionError:
                raise wrong(name, "is nested too deeply") from None
    return values


def _node_id(fields: Mapping[str, Any]) -> str:
    value = required(fields, "node_id")
    if not isinstance(value, str) or not _NODE_ID.fullmatch(value):
        raise wrong("node_id", "must be a string of 1 to 64 characters out of A-Z a-z 0-9 . _ -")
    return value


def _base_url(value: object) -> BaseUrl:
    if not isinstance(value, str):
        raise wrong("base_url", "must be a string")
    try:
        return parse_url(value)
    except ValueError as error:
        raise wrong("base_url", str(error)) from None


def _token(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise wrong("access_token", "must be a string of printable ASCII, at most 4096 characters")
    return value


def _flat_roles(value: object) -> tuple[ServedModel, ...] | None:
    """The form of old: one model per role, of the same name."""
    if value is None:
        return None
    roles = _roles(value, "roles", MAX_MODELS)
    return tuple(ServedModel(model_id=role, roles=(role,)) for role in roles)


def _served_models(value: object, meta_bytes: int) -> tuple[ServedModel, ...] | None:
    """`meta_bytes`: how much of the room for meta is taken already."""
    if value is None:
        return None
    models: dict[str, ServedModel] = {}
    for place, entry in entries(value, "served_models", MAX_MODELS):
        model = _served_model(mapping(entry, place), place)
        if model.model_id in models:
            raise wrong(f"{place}.model_id", "names the same model as an entry before it")
        meta_bytes += _size(model.meta)
        if meta_bytes > MAX_META_BYTES:
            raise _too_much_meta(f"{place}.meta")
        models[model.model_id] = model
    return tuple(models.values())


def _served_model(fields: Mapping[str, Any], place: str) -> ServedModel:
    return ServedModel(
        model_id=printable(
            required(fields, "model_id", place), f"{place}.model_id", MAX_MODEL_ID_LENGTH
        ),
        roles=_roles(required(fields, "roles", place), f"{place}.roles", MAX_ROLES),
        meta=_meta(fields.get("meta"), f"{place}.meta"),
        state=_state(fields.get("state"), f"{place}.state"),
        slots=integer(fields.get("slots"), f"{place}.slots", _MOST),
        slots_busy=integer(fields.get("slots_busy"), f"{place}.slots_busy", _MOST),
        max_context=integer(fields.get("max_context"), f"{place}.max_context", _MOST),
        detail=_detail(fields.get("detail"), f"{place}.detail"),
    )


def _detail(value: object, place: str) -> str | None:
    return None if value is None or value == "" else printable(value, place, MAX_DETAIL_LENGTH)


def _roles(value: object, place: str, most: int) -> tuple[str, ...]:
    """Without repetitions, in the order in which they were listed."""
    roles = [printable(role, at, MAX_ROLE_LENGTH) for at, role in entries(value, place, most)]
    return tuple(dict.fromkeys(roles))


def _state(value: object, place: str) -> ModelState | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in ModelState.__members__:
        raise wrong(place, f"must be one of {', '.join(ModelState.__members__)}")
    return ModelState[value]


def _meta(value: object, place: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    meta = mapping(value, place)
    if _deeper(meta, MAX_META_DEPTH):
        raise wrong(place, f"must not be nested deeper than {MAX_META_DEPTH}")
    if _size(meta) > MAX_META_BYTES:
        raise _too_much_meta(place)
    return meta


def _size(meta: Mapping[str, Any]) -> int:
    return len(_encode(meta)) if meta else 0


def _too_much_meta(place: str) -> InvalidValue:
    return wrong(place, f"is too much: a node has {MAX_META_BYTES} bytes of meta, models included")


def _deeper(value: object, levels: int) -> bool:
    """Whether it is nested deeper than that: what is taken in must be writable again."""
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        return False
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


def _plain(seconds: float) -> float | int:
    return int(seconds) if seconds == int(seconds) else seconds
