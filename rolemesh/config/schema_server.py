"""The keys that every daemon's configuration has: TLS, logs, timeouts."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from rolemesh.config.kinds import (
    ReadableFile,
    Seconds,
)
from rolemesh.config.shape import about


@frozen(kw_only=True)
class TlsSection:
    cert_file: ReadableFile = field(
        metadata=about("Certificate chain in PEM; the server's own comes first.")
    )
    key_file: ReadableFile = field(metadata=about("The certificate's private key in PEM."))
    client_ca_file: ReadableFile | None = field(
        default=None,
        metadata=about(
            "Certificate authorities in PEM. With it every client must show a certificate of theirs"
            " (mutual TLS)."
        ),
    )


@frozen(kw_only=True)
class LogSection:
    level: Literal["debug", "info", "warning", "error", "critical"] = field(
        default="info", metadata=about("Least severity that is logged.")
    )
    format: Literal["json", "console"] | None = field(
        default=None,
        metadata=about(
            "One JSON object a line, or text for people.", unset="json, or console on a terminal"
        ),
    )


@frozen(kw_only=True)
class TimeoutsSection:
    """The words for core.types.Timeouts, which is what these keys become."""

    connect_s: Seconds = field(
        default=5.0, metadata=about("To resolve, connect and finish TLS with a backend.")
    )
    first_byte_s: Seconds = field(
        default=600.0,
        metadata=about(
            "From the request sent to the first byte of the answer: loading and reading the prompt"
            " happen here."
        ),
    )
    idle_s: Seconds = field(default=300.0, metadata=about("Between two chunks of an answer."))
