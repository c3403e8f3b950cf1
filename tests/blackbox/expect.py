"""What must hold of answers, said once: the shape of errors, and of streams that went well or not.

Used by the black-box tests; pytest rewrites the assertions here (see conftest).
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.rawhttp import Reply
from tests.script import DONE

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Codes whose `param` is always the same.
PARAM_OF = {"model_not_found": "model", "model_not_allowed": "model"}
FIELDS = {"message", "type", "param", "code"}


def error(
    reply: Reply,
    status: int,
    code: str,
    *,
    param: str | None = None,
    path: str = "/v1/chat/completions",
    echo: str | bytes | None = None,
) -> dict[str, Any]:
    """An error made by the gateway, in the contract's shape, that does not repeat `echo`."""
    assert (reply.status, _code(reply)) == (status, code), reply
    assert (reply.get("Content-Type") or "").startswith("application/json")
    assert reply.get("X-RoleMesh-Error") == "gateway"
    assert REQUEST_ID.fullmatch(reply.get("X-Request-ID") or "")
    body = reply.json()
    if path.startswith("/v1/messages"):
        assert body.pop("type") == "error"
    assert set(body) == {"error"}, body
    inner: dict[str, Any] = body["error"]
    assert set(inner) - {"details"} == FIELDS, inner
    assert isinstance(inner["message"], str)
    assert inner["message"]
    assert isinstance(inner["type"], str)
    assert inner["param"] == (param or PARAM_OF.get(code))
    no_secrets(reply, echo)
    return inner


def _code(reply: Reply) -> Any:
    try:
        return reply.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return reply.body


def no_secrets(reply: Reply, echo: str | bytes | None = None) -> None:
    text = reply.body.decode()
    for word in ("Traceback", 'File "', ".py", "site-packages"):
        assert word not in text
    if echo is not None:
        wanted = echo.decode("latin-1") if isinstance(echo, bytes) else echo
        assert wanted not in text
        assert wanted not in str(reply.head.headers)


def upstreams_own(reply: Reply) -> None:
    """The answer is the backend's, not the gateway's."""
    assert reply.get("X-RoleMesh-Error") is None, reply


def events(body: bytes) -> list[bytes]:
    """The whole events of a stream; what is left must be nothing."""
    parts = re.split(rb"(?:\r\n|\r|\n){2}", body)
    assert parts[-1] == b"", f"half an event at the end: {parts[-1][:200]!r}"
    return [part for part in parts[:-1] if part]


def broken_stream(body: bytes, code: str, *, named: bool = False) -> list[bytes]:
    """A stream that ends in an error event and has no [DONE]. Returns the events before it."""
    assert b"[DONE]" not in body, body[-300:]
    *before, last = events(body)
    lines = last.splitlines()
    if named:
        assert lines[0] == b"event: error", last
    assert lines[-1].startswith(b"data: "), last
    assert len(lines) == (2 if named else 1), last
    told = json.loads(lines[-1].removeprefix(b"data: "))["error"]
    assert told["code"] == code, told
    assert set(told) >= FIELDS
    return before


def whole_stream(body: bytes) -> list[bytes]:
    """A stream that went well. Returns the events before [DONE]."""
    *before, last = events(body)
    assert last + b"\n\n" == DONE
    return before
