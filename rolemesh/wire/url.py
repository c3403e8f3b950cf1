"""Base URLs: of backends in the configuration, of nodes in a registration.

Taken apart by hand and strictly, for what comes from outside decides where this program connects
to: `urllib.parse` drops line ends, takes credentials and lets odd hosts through. Messages read on
after the name of a key ("base_url must not ...") and never contain the value.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from rolemesh.core.types import BaseUrl

MAX_URL_LENGTH = 2048

_URL = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::(.*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")  # RFC 3986 section 3.3
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORT = {"http": 80, "https": 443}


def parse_url(text: str) -> BaseUrl:
    """Trailing slashes and a trailing "/v1" are dropped. Raises ValueError."""
    if len(text) > MAX_URL_LENGTH:
        raise ValueError(f"must not be longer than {MAX_URL_LENGTH} characters")
    if not all("!" <= char <= "~" for char in text):
        raise ValueError(
            "must be a URL of printable ASCII characters without spaces"
            " (write an international host name in its xn-- form)"
        )
    parts = _URL.fullmatch(text)
    if parts is None:
        raise ValueError("must be a URL that begins with http:// or https://")
    scheme, authority, path = parts[1].lower(), parts[2], parts[3]
    if "@" in authority:
        raise ValueError("must not contain credentials")
    if "?" in path or "#" in path:
        raise ValueError("must not contain a query or a fragment")
    host, port = _host_and_port(authority)
    return BaseUrl(scheme, host, _DEFAULT_PORT[scheme] if port is None else port, _prefix(path))


def _host_and_port(authority: str) -> tuple[str, int | None]:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("must name a host, an IPv6 address in brackets")
    six, host, port = parts[1], parts[2], parts[3]
    return _ipv6(six) if six is not None else _host(host.lower()), _port(port)


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("must have a port from 1 to 65535, or none")
    return int(text)


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise ValueError("must have a valid IPv6 address between the brackets") from None
    if address.scope_id is not None:
        raise ValueError("must not have a zone in its IPv6 address")
    return str(address)


def _host(text: str) -> str:
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must name a valid host")
    if not _NUMERIC.fullmatch(labels[-1]):
        return text
    # Resolvers take 127.1, 0x7f.1 and 2130706433 for addresses too: one spelling, one meaning.
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise ValueError("must have an IPv4 address in its usual form, four numbers") from None


def _prefix(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ValueError("must have a valid path (percent-encode what is not allowed in one)")
    if any(segment in {".", ".."} for segment in path.lower().replace("%2e", ".").split("/")):
        raise ValueError("must not have . or .. in its path")
    path = path.rstrip("/")
    while path.endswith("/v1"):
        path = path.removesuffix("/v1").rstrip("/")
    return path
