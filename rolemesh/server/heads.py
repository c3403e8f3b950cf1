"""The heads that the request path writes: towards a backend, and of its answer towards the client.

Used by the request paths of gateway and node. What follows from a backend or a head that comes
again and again is put together once and kept with it (core/types.Backend.kept, the same of
server/request.Request, `Head.kept`); what is left for each request are its id and its length.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

from attrs import frozen

from rolemesh.core.types import Backend
from rolemesh.server.inbound import Inbound
from rolemesh.wire.headers import answerable, forwardable
from rolemesh.wire.http1 import lines

MAX_NAMED = 1_024  # a node has some models
_OURS = ((b"Content-Type", b"application/json"), (b"Accept-Encoding", b"identity"))
_STREAM = ((b"Cache-Control", b"no-cache"), (b"X-Accel-Buffering", b"no"))


class Head(Protocol):
    """What is needed of a backend's answer: its header pairs, and where to keep what is made of
    them (proxy/answer.Head)."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...

    @property
    def kept(self) -> dict[object, bytes]: ...


@frozen
class Fixed:
    """What is always the same: lines of ours. `dropped`: the names that no line of another may
    have, in lower case. `host`: a request's Host line."""

    lines: bytes
    dropped: frozenset[bytes]
    host: bytes = b""


def towards_backend(
    inbound: Inbound, backend: Backend, via: tuple[bytes, bytes], id_header: str, length: int
) -> bytes:
    """The head of the request that is sent on."""
    request = inbound.request
    fixed = backend.kept.get(id_header)
    if fixed is None:
        fixed = backend.kept[id_header] = _fixed(backend, via, id_header)
    forwarded = request.kept.get(fixed.dropped)
    if forwarded is None:
        forwarded = lines(forwardable(request.raw_headers, fixed.dropped))
        request.kept[fixed.dropped] = forwarded
    target = (backend.url.prefix + request.target).encode("ascii")
    return b"POST %b HTTP/1.1\r\n%b%b%b%bContent-Length: %d\r\n\r\n" % (
        target, fixed.host, forwarded, fixed.lines, inbound.id_line, length
    )  # fmt: skip


def towards_client(inbound: Inbound, head: Head, fixed: Fixed) -> bytes:
    """The header lines of the answer. `fixed`: of `answered`."""
    passed = head.kept.get(fixed.dropped)
    if passed is None:
        passed = head.kept[fixed.dropped] = lines(answerable(head.headers, fixed.dropped))
    return b"%b%b%b" % (passed, inbound.id_line, fixed.lines)


def answered(alias: str, backend: Backend, model: str, id_header: str, *, streams: bool) -> Fixed:
    """Who answered, and what an event stream needs besides."""
    who = alias, model, id_header, streams
    fixed: Fixed | None = backend.kept.get(who)
    if fixed is None:
        kind = "X-RoleMesh-Backend" if backend.node_id is None else "X-RoleMesh-Node"
        named = (("X-RoleMesh-Alias", alias), (kind, backend.name), ("X-RoleMesh-Model", model))
        fixed = backend.kept[who] = naming(named, id_header, streams=streams)
    return fixed


@lru_cache(maxsize=MAX_NAMED)
def naming(named: tuple[tuple[str, str], ...], id_header: str, *, streams: bool) -> Fixed:
    """The headers `named`, and what an event stream needs besides."""
    ours = tuple((name.encode(), _ascii(value)) for name, value in named)
    if streams:
        return Fixed(lines((*ours, *_STREAM)), _names(id_header, "Cache-Control"))
    return Fixed(lines(ours), _names(id_header))


def _fixed(backend: Backend, via: tuple[bytes, bytes], id_header: str) -> Fixed:
    host = lines([(b"Host", backend.url.authority.encode("ascii"))])
    headers = [*_OURS, via]
    dropped = _names("Content-Type", "Accept-Encoding", id_header)
    if backend.auth is not None:
        name, value = backend.auth
        headers.append((name.encode(), value.encode()))
        dropped |= _names(name)
    return Fixed(lines(headers), dropped, host)


def _names(*names: str) -> frozenset[bytes]:
    return frozenset(name.lower().encode() for name in names)


def _ascii(text: str) -> bytes:
    """Header values are ASCII; other characters are percent-encoded."""
    return (text if text.isascii() and text.isprintable() else quote(text, safe="/: ")).encode()
