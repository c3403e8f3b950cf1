"""The kinds of scalar that a schema asks for: what is taken, and the words that say so.

A schema's field is annotated with one (`port: Port`). `structure` reads with it, `reference` prints
its words. A kind's own complaint never repeats the value: it may be a secret in the wrong place.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from typing import Annotated, Any

import attrs
from attrs import frozen

from rolemesh.config.tree import Leaf
from rolemesh.core.types import BaseUrl, Network
from rolemesh.wire.url import parse_url

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110 section 5.6.2
_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_KEY_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}")
_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]{1,64}")
_ALIAS = re.compile(r"[\x21-\x7e]{1,128}")

# Setting one of these would change the framing or the routing of a request.
_RESERVED_HEADERS = frozenset(
    {"connection", "content-length", "content-type", "expect", "host", "keep-alive", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "via"}
)
# A request's id would take their place, in the request or in its answer.
_MEANINGFUL_HEADERS = _RESERVED_HEADERS | frozenset(
    {"accept", "alt-svc", "allow", "authorization", "cache-control", "cookie", "date", "forwarded"}
    | {"http2-settings", "location", "origin", "proxy-authenticate", "proxy-authorization"}
    | {"proxy-connection", "range", "retry-after", "server", "set-cookie", "user-agent", "vary"}
    | {"www-authenticate", "x-api-key", "x-conversation-id", "x-real-ip"}
)
_MEANINGFUL_PREFIXES = (
    "accept-", "access-control-", "content-", "sec-", "x-accel-", "x-forwarded-", "x-rolemesh-"
)  # fmt: skip
_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})

DAY_S = 86_400
YEAR_S = 365 * DAY_S


@frozen
class Kind:
    """`words` completes "must be ...". `read` gives the value or raises ValueError, with a message
    where the words alone would not help. `text`: the field wants the text as it stands."""

    words: str
    read: Callable[[Leaf], Any]
    text: bool = True
    path: bool = False


def whole(low: int, high: int) -> Kind:
    def read(leaf: Leaf) -> int:
        value = leaf.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a whole number from {low} to {high}", read, text=False)


def seconds(low: float, high: float, *, above: bool = True) -> Kind:
    """A duration; `above`: `low` itself is too little."""

    def read(leaf: Leaf) -> float:
        value = leaf.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            raise ValueError
        return float(value)

    least = f"more than {low:g}" if above else f"at least {low:g}"
    return Kind(f"a number of seconds, {least} and at most {high:.0f}", read, text=False)


def words(*allowed: str) -> Kind:
    def read(leaf: Leaf) -> str:
        if leaf.text not in allowed:
            raise ValueError
        return leaf.text

    return Kind(" or ".join(allowed) if len(allowed) < 3 else "one of " + ", ".join(allowed), read)


def matching(pattern: re.Pattern[str], description: str) -> Kind:
    def read(leaf: Leaf) -> str:
        if not pattern.fullmatch(leaf.text):
            raise ValueError
        return leaf.text

    return Kind(description, read)


def printable(longest: int) -> Kind:
    def read(leaf: Leaf) -> str:
        text = leaf.text
        if not text.strip() or not text.isprintable() or len(text) > longest:
            raise ValueError
        return text

    return Kind(f"text of 1 to {longest} printable characters", read)


def _boolean(leaf: Leaf) -> bool:
    word = leaf.text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _key(leaf: Leaf) -> str:
    """Client keys arrive in a header: no white space or control character can be part of one."""
    if not leaf.text:
        raise ValueError("is empty: a key that anyone could guess")
    if any(character <= " " or character == "\x7f" for character in leaf.text):
        raise ValueError
    return leaf.text


def _token(leaf: Leaf) -> str:
    text = leaf.text.strip(" ")
    if not all(" " <= character <= "~" for character in text):
        raise ValueError
    return text


def _scheme(leaf: Leaf) -> str:
    if leaf.text and not _HEADER_NAME.fullmatch(leaf.text):
        raise ValueError
    return leaf.text


def _header(leaf: Leaf) -> str:
    if not _HEADER_NAME.fullmatch(leaf.text):
        raise ValueError
    if leaf.text.lower() in _RESERVED_HEADERS:
        raise ValueError("is a header that HTTP itself needs: choose another name")
    return leaf.text


def _id_header(leaf: Leaf) -> str:
    name = _header(leaf)
    if name.lower() in _MEANINGFUL_HEADERS or name.lower().startswith(_MEANINGFUL_PREFIXES):
        raise ValueError("is a header with a meaning of its own: choose another name")
    return name


def _host(leaf: Leaf) -> str:
    try:
        return str(ipaddress.ip_address(leaf.text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    # A name whose last label is all digits would be read as an IPv4 address (WHATWG URL, hosts).
    last = leaf.text.rstrip(".").rpartition(".")[2]
    if not _HOST_NAME.fullmatch(leaf.text) or last.isdecimal():
        raise ValueError
    return leaf.text


def _network(leaf: Leaf) -> Network:
    try:
        interface = ipaddress.ip_interface(leaf.text)
    except ValueError:
        raise ValueError from None
    if interface.ip != interface.network.network_address:
        raise ValueError(f"has address bits beyond its prefix: write {interface.network}")
    return interface.network


def _proxy(leaf: Leaf) -> Network | str:
    if "/" in leaf.text:
        return _network(leaf)
    host = _host(leaf)
    try:
        return ipaddress.ip_network(host)
    except ValueError:
        return host


def _path(leaf: Leaf) -> str:
    if not leaf.text or "\0" in leaf.text:
        raise ValueError
    return os.path.abspath(os.path.join(leaf.origin.directory, leaf.text))


def _readable(leaf: Leaf) -> str:
    path = _path(leaf)
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def _url(leaf: Leaf) -> BaseUrl:
    url = parse_url(leaf.text)
    if url.prefix.endswith("/completions"):  # of /chat/completions, too
        raise ValueError("ends in a path of the API: leave that out")
    return url


BOOLEAN = Kind("true or false", _boolean, text=False)
FILE_PATH = Kind("a path", _path, path=True)

Port = Annotated[int, whole(0, 65_535)]
Size = Annotated[int, whole(1, 2**40)]
Count = Annotated[int, whole(1, 1_000_000)]
Version = Annotated[int, attrs.evolve(whole(1, 1), words="1, the only version there is")]
Stale = Annotated[float, seconds(0, DAY_S)]
Seconds = Annotated[float, seconds(0, YEAR_S)]
Wait = Annotated[float, seconds(0, DAY_S, above=False)]
Line = Annotated[str, printable(256)]
Alias = Annotated[str, matching(_ALIAS, "1 to 128 printable ASCII characters without spaces")]
Name = Annotated[str, matching(_NAME, "1 to 64 letters, digits or any of . _ : [ ] -")]
Host = Annotated[str, Kind("an IP address or a host name", _host)]
HeaderName = Annotated[str, Kind("a header's name", _header)]
IdHeaderName = Annotated[
    str, Kind("a header's name, of a header that has no other use", _id_header)
]
KeyHash = Annotated[str, matching(_KEY_HASH, 'sha256:<64 hex digits> of the key, as "sha256:..."')]
Key = Annotated[str, Kind("a key of one line, without spaces or control characters", _key)]
Token = Annotated[str, Kind("a credential of one line, in printable ASCII", _token)]
Scheme = Annotated[str, Kind("an authentication scheme, or empty for none", _scheme)]
Cidr = Annotated[Network, Kind("a network such as 10.0.0.0/24, or an address", _network)]
TrustedProxy = Annotated[
    Network | str, Kind("a network such as 10.0.0.0/24, an address or a host name", _proxy)
]
FilePath = Annotated[str, FILE_PATH]
ReadableFile = Annotated[str, Kind("the path of a readable file", _readable, path=True)]
Url = Annotated[BaseUrl, Kind("an http or https URL such as http://127.0.0.1:8012", _url)]
