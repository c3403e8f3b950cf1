"""Opening a connection to a backend, and the words for why it could not be opened.

TLS is always verified; no proxy of the environment is used. Where a key limits the networks, only
addresses within them are connected to. A name's addresses are tried in turn, each with a head start
before the next one (RFC 8305): one that is silent costs little.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from attrs import frozen

from rolemesh.core.access import address_allowed
from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Backend, Network
from rolemesh.proxy.connection import Connection
from rolemesh.proxy.exchange import Broken
from rolemesh.proxy.names import NO_DESCRIPTORS, Names

Opening = Callable[[str], Coroutine[Any, Any, Connection]]

HEAD_START_S = 0.25
MAX_ADDRESSES = 8
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTDOWN}


@frozen(cache_hash=True)
class Place:
    """What a connection depends on. Credentials do not count: they go with each request."""

    host: str
    port: int
    tls: bool
    ca_file: str | None
    networks: tuple[Network, ...] | None


def place_of(backend: Backend) -> Place:
    url = backend.url
    return Place(url.host, url.port, url.tls, backend.ca_file, backend.networks)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's authorities, or those of `ca_file` alone. Raises Broken."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise _broken(*_words(error)) from error
        detail = f"ca_file cannot be used: {error.strerror or 'no certificate in it'}"
        raise _broken(Reason.TLS_FAILED, detail) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(
    factory: Callable[[], Connection],
    place: Place,
    names: Names,
    context: ssl.SSLContext | None,
    connect_s: float,
) -> Connection:
    """Name, connection and TLS within `connect_s`. Raises Broken (Failure.CONNECT)."""
    loop = asyncio.get_running_loop()

    async def open_at(address: str) -> Connection:
        hostname = None if context is None else place.host
        connection = factory()
        try:
            await loop.create_connection(
                lambda: connection, address, place.port, ssl=context, server_hostname=hostname
            )
        except BaseException:
            connection.forget()
            raise
        return connection

    addresses: Sequence[str] | None = None
    try:
        async with asyncio.timeout(connect_s):
            addresses = _allowed(await names.addresses(place.host), place.networks)
            connection = await _first(open_at, addresses)
    except TimeoutError as error:
        late = f"within {connect_s:g} s"
        if addresses is None:
            raise _broken(Reason.NAME_NOT_RESOLVED, f"its name was not resolved {late}") from error
        raise _broken(Reason.CONNECT_TIMEOUT, f"no connection {late}") from error
    except OSError as error:  # also ssl.SSLError
        raise _broken(*_words(error)) from error
    if not address_allowed(connection.address, place.networks):
        connection.abort()
        raise _not_allowed()
    return connection


def _allowed(addresses: Sequence[str], networks: Sequence[Network] | None) -> Sequence[str]:
    allowed = [each for each in addresses if address_allowed(each, networks)]
    if not allowed:
        raise _not_allowed()
    return allowed[:MAX_ADDRESSES]


async def _first(open_at: Opening, addresses: Sequence[str]) -> Connection:
    """Whichever connection comes up first; the others are closed. Raises what went wrong at one of
    the addresses: that there is no route to it tells less than what others said."""
    waiting = deque(addresses)
    pending: set[asyncio.Task[Connection]] = set()
    errors: list[BaseException] = []
    first: Connection | None = None
    try:
        while waiting or pending:
            if waiting:
                pending.add(asyncio.create_task(open_at(waiting.popleft())))
            head_start_s = HEAD_START_S if waiting else None
            await asyncio.wait(pending, timeout=head_start_s, return_when=asyncio.FIRST_COMPLETED)
            for task in [each for each in pending if each.done()]:
                pending.remove(task)
                error = task.exception()
                if error is None:
                    first = task.result()
                    return first
                errors.append(error)
    finally:
        try:
            await _close(pending)
        except BaseException:  # whoever waited has left meanwhile
            if first is not None:
                first.abort()
            raise
    error = min(errors, key=_is_unreachable)
    try:
        raise error
    finally:
        del error, errors, task  # what is raised holds this frame


async def _close(openings: Collection[asyncio.Task[Connection]]) -> None:
    for task in openings:
        task.cancel()
    for outcome in await asyncio.gather(*openings, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            outcome.abort()


def _is_unreachable(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _UNREACHABLE


def _broken(reason: Reason, detail: str) -> Broken:
    return Broken(Failure.CONNECT, reason, detail)


def _not_allowed() -> Broken:
    detail = "its name leads to an address outside the key's networks"
    return _broken(Reason.ADDRESS_NOT_ALLOWED, detail)


def _words(error: OSError) -> tuple[Reason, str]:
    match error:
        case ssl.SSLError():
            return Reason.TLS_FAILED, f"TLS failed: {_tls_words(error)}"
        case ConnectionRefusedError():
            return Reason.CONNECTION_REFUSED, "connection refused"
        case OSError(errno=code) if code in NO_DESCRIPTORS:
            return Reason.NO_DESCRIPTORS, "the gateway has no file descriptor left"
        case OSError() if _is_unreachable(error):
            return Reason.UNREACHABLE, "no route to its address"
        case ConnectionError():
            return Reason.TLS_FAILED, "the connection was closed while it was being set up"
    return Reason.CONNECT_FAILED, f"no connection: {error.strerror or type(error).__name__}"


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "handshake failed").replace("_", " ").lower()
