"""What answers look like: the error envelope, error events, and the lists of models.

The server's error writer, the gateway's forward and its handlers are fed from here. Nothing that a
client sent is repeated: an error's message is ours, and `details` is for its caller's eyes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from attrs import frozen

from rolemesh.core.types import Alias
from rolemesh.errors import RoleMeshError

# Routed by `model`, and passed through to the same path.
MODEL_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
)
_encode = msgspec.json.Encoder().encode

_NEEDS_DONE = frozenset({"/v1/chat/completions", "/v1/completions"})


def is_anthropic(path: str) -> bool:
    """Whether the path is one of Anthropic's Messages API, whose errors say `"type": "error"`."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def needs_done(path: str) -> bool:
    """Whether a stream of this path is whole only when it ended with `data: [DONE]`."""
    return path in _NEEDS_DONE


def error_envelope(error: RoleMeshError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`, with `details` where there are any."""
    inner: dict[str, Any] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    if error.details is not None:
        inner["details"] = error.details
    return {"error": inner}


def error_body(error: RoleMeshError, *, anthropic: bool = False) -> bytes:
    """The envelope as JSON; on Anthropic's paths with `"type": "error"` beside it."""
    envelope = error_envelope(error)
    return _encode({"type": "error", **envelope} if anthropic else envelope)


def error_event(error: RoleMeshError, path: str) -> bytes:
    """The last event of a stream that broke off."""
    return named_event(error_body(error, anthropic=is_anthropic(path)), path)


def named_event(body: bytes, path: str) -> bytes:
    """An error's `body` (JSON on one line) as an event.

    Clients of /v1/messages and /v1/responses skip events without a name.
    """
    named = is_anthropic(path) or path == "/v1/responses"
    return (b"event: error\n" if named else b"") + b"data: " + body + b"\n\n"


def model_entry(alias: Alias, *, backends: int, created: int) -> dict[str, Any]:
    """A model that is reachable now. `created`: seconds since the epoch."""
    return {
        "id": alias.openai_model_name,
        "object": "model",
        "created": created,
        "owned_by": "rolemesh",
        "rolemesh": {"alias": alias.name, "type": alias.type, "backends": backends},
    }


def unavailable_entry(alias: Alias, *, reason: str, detail: str, since: int) -> dict[str, Any]:
    """A model that is not, and why. `since`: seconds since the epoch."""
    return {
        "id": alias.openai_model_name,
        "alias": alias.name,
        "type": alias.type,
        "reason": reason,
        "detail": detail,
        "since": since,
    }


def node_entry(node_id: str, state: str, age_s: float, roles: Iterable[str]) -> dict[str, Any]:
    """A node, for those who may see them. The age is told in whole seconds."""
    return {"node_id": node_id, "state": state, "age_s": int(age_s), "roles": list(roles)}


@frozen
class ModelList:
    """What GET /v1/models tells one caller: entries as made above, already filtered to their key.

    `nodes` None: a key that is limited to some models does not see them.
    """

    models: Sequence[Mapping[str, Any]]
    unavailable: Sequence[Mapping[str, Any]] = ()
    default_model: str | None = None
    nodes: Sequence[Mapping[str, Any]] | None = None


def model_list(told: ModelList) -> dict[str, Any]:
    """The answer to GET /v1/models."""
    ours: dict[str, Any] = {
        "default_model": told.default_model,
        "unavailable_models": list(told.unavailable),
    }
    if told.nodes is not None:
        ours["nodes"] = list(told.nodes)
    return {"object": "list", "data": list(told.models), "rolemesh": ours}
