"""Opening a connection to a backend, and the words for why it could not be opened.

TLS is always verified; no proxy of the environment is used. A name is resolved each time, and where
a key limits the networks, the address really connected to is what is judged.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rolemesh.core.access import address_allowed
from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Network
from rolemesh.proxy.exchange import Broken

if TYPE_CHECKING:
    from rolemesh.proxy.connection import Connection

_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTDOWN}


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's authorities, or those of `ca_file` alone. Raises Broken."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        detail = f"ca_file cannot be used: {error.strerror or 'no certificate in it'}"
        raise Broken(Failure.CONNECT, Reason.TLS_FAILED, detail) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(
    factory: Callable[[], Connection],
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    connect_s: float,
    networks: Sequence[Network] | None,
) -> Connection:
    """Name, connection and TLS within `connect_s`. Raises Broken (Failure.CONNECT)."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(connect_s):
            _, connection = await loop.create_connection(factory, host, port, ssl=context)
    except (OSError, UnicodeError) as error:  # OSError: also TimeoutError, ssl.SSLError, gaierror
        reason, detail = _words(error, connect_s)
        raise Broken(Failure.CONNECT, reason, detail) from error
    if not address_allowed(connection.address, networks):
        connection.abort()
        detail = "its name leads to an address outside the key's networks"
        raise Broken(Failure.CONNECT, Reason.ADDRESS_NOT_ALLOWED, detail)
    return connection


def _words(error: OSError | UnicodeError, connect_s: float) -> tuple[Reason, str]:
    match error:
        case UnicodeError() | socket.gaierror():
            return Reason.NAME_NOT_RESOLVED, "its name has no address"
        case ssl.SSLError():
            return Reason.TLS_FAILED, f"TLS failed: {_tls_words(error)}"
        case ConnectionRefusedError():
            return Reason.CONNECTION_REFUSED, "connection refused"
        case TimeoutError():
            return Reason.CONNECT_TIMEOUT, f"no connection within {connect_s:g} s"
        case OSError(errno=code) if code in _UNREACHABLE:
            return Reason.UNREACHABLE, "no route to its address"
        case ConnectionError() if not isinstance(error, ConnectionRefusedError):
            return Reason.TLS_FAILED, "the connection was closed while it was being set up"
    # Several addresses, each with its own error: the event loop only gives their text.
    if "refused" in str(error) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return Reason.CONNECTION_REFUSED, "connection refused"
    return Reason.CONNECT_FAILED, f"no connection: {error.strerror or type(error).__name__}"


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "handshake failed").replace("_", " ").lower()
