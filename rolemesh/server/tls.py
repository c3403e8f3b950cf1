"""TLS contexts from files, for a listener and for a client, and which file is at fault if not.

The files are read when a context is made: at a reload the wiring makes another one and gives it to
the listener, so that a bad file leaves the old context whole.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from rolemesh.errors import ConfigError


def server_context(cert_file: str, key_file: str, client_ca_file: str | None) -> ssl.SSLContext:
    """TLS 1.2 or later; with `client_ca_file` only clients with a certificate of it are let in.

    Raises ConfigError naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, cert_file, key_file)
    if client_ca_file is not None:
        _trust(context, client_ca_file, "client_ca_file")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    ca_file: str | None, cert_file: str | None, cert_key_file: str | None
) -> ssl.SSLContext:
    """Verifies against `ca_file` alone, or else the system's authorities. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs()
    else:
        _trust(context, ca_file, "ca_file")
    if cert_file is not None:
        _load_pair(context, cert_file, cert_key_file or cert_file)
    return context


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    _readable(cert_file, "the certificate file")
    _readable(key_file, "the key file")
    try:
        # An empty pass phrase: an encrypted key is an error, not a question on the terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"TLS: the certificate {cert_file} and the key {key_file} cannot be used: both must be"
            f" PEM, the key without a pass phrase and the certificate's own ({_reason(error)})"
        ) from error


def _trust(context: ssl.SSLContext, ca_file: str, name: str) -> None:
    _readable(ca_file, name)
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"TLS: {name} {ca_file} holds no certificate in PEM form ({_reason(error)})"
        ) from error


def _readable(path: str, name: str) -> None:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigError(f"TLS: {name} {path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
