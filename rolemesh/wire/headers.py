"""Which headers may pass a proxy, and what a few of them say.

Pairs of bytes in, pairs of bytes out, in their order and their own spelling. Called once per
request and once per answer, so it looks each name up once and does the rest only when needed.
What this program sets itself (Host, framing, X-Request-ID, Via of its own) is not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Pairs = Iterable[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1, and what older programs sent hop by hop.
HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
        b"upgrade", b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info",
        b"http2-settings",
    }
)  # fmt: skip

# Towards an upstream. Credentials and cookies are the client's own with us. X-Conversation-Id
# makes llama-server generate on after a disconnect. Accept-Encoding: bodies are not inflated here,
# and a compressed event stream cannot be split into events. Origin: Ollama refuses unknown ones.
# Via stays: it is how a loop of gateways is found.
_NOT_FORWARDED = HOP_BY_HOP | {
    b"host", b"content-length", b"expect", b"accept-encoding", b"authorization", b"x-api-key",
    b"api-key", b"x-goog-api-key", b"cookie", b"cookie2", b"x-conversation-id", b"forwarded",
    b"x-real-ip", b"origin", b"referer",
}  # fmt: skip
_NOT_FORWARDED_PREFIXES = (b"x-rolemesh-", b"x-forwarded-")

# Towards a client. Date is set anew by whoever answers. X-Accel-* and X-Sendfile are orders to a
# web server before this gateway.
_NOT_ANSWERED = HOP_BY_HOP | {
    b"content-length", b"date", b"set-cookie", b"set-cookie2", b"x-request-id", b"alt-svc",
    b"x-sendfile",
}  # fmt: skip
_NOT_ANSWERED_PREFIXES = (b"x-rolemesh-", b"x-accel-")

_NONE: frozenset[bytes] = frozenset()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def forwardable(raw: Pairs, also_drop: frozenset[bytes] = _NONE) -> list[tuple[bytes, bytes]]:
    """What of a request's headers goes to an upstream. `also_drop`: lower-case names."""
    return _passing(raw, _NOT_FORWARDED, _NOT_FORWARDED_PREFIXES, also_drop)


def answerable(raw: Pairs, also_drop: frozenset[bytes] = _NONE) -> list[tuple[bytes, bytes]]:
    """What of an upstream's answer's headers goes to the client. `also_drop`: lower-case names."""
    return _passing(raw, _NOT_ANSWERED, _NOT_ANSWERED_PREFIXES, also_drop)


def presented_key(get: Callable[[str], str | None], *names: str) -> str | None:
    """The key in a request: `Authorization: Bearer K`, else the first of these headers. None: none.

    `get` looks a header up by its name, whatever its case.
    """
    authorization = get("Authorization")
    if authorization is not None:
        scheme, _, key = authorization.strip().partition(" ")
        key = key.strip()
        if key and scheme.lower() == "bearer":
            return key
    for name in names:
        key = (get(name) or "").strip()
        if key:
            return key
    return None


def request_id_ok(value: str) -> bool:
    """Whether a client's own request id is used."""
    return _REQUEST_ID.fullmatch(value) is not None


def _passing(
    raw: Pairs, dropped: frozenset[bytes], prefixes: tuple[bytes, ...], also: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    passing = []
    named = b""
    for pair in raw:
        name = pair[0].lower()
        if name in dropped:
            if name == b"connection":
                named += b"," + pair[1]
        elif name not in also and not name.startswith(prefixes):
            passing.append(pair)
    return _without_named(passing, named, dropped) if named else passing


def _without_named(
    pairs: list[tuple[bytes, bytes]], connection: bytes, dropped: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    """Drop what a Connection header names: it was meant for this hop."""
    named = {token.strip(b" \t") for token in connection.lower().split(b",")} - dropped
    if not named - {b"", b"close"}:
        return pairs
    return [pair for pair in pairs if pair[0].lower() not in named]
