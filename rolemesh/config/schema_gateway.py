"""What a gateway's configuration may say: every key with its kind, default and documentation.

Read by `structure` (files into these values) and `reference` (these texts into the manual). Rules
between keys are in `checks_gateway`; what the rest of the program works with is made by `compile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from attrs import field, frozen

from rolemesh.config.kinds import (
    Alias,
    FilePath,
    Host,
    IdHeaderName,
    Port,
    Seconds,
    Size,
    Stale,
    TrustedProxy,
    Version,
    Wait,
)
from rolemesh.config.schema_auth import AuthSection
from rolemesh.config.schema_models import MODEL_TYPES, ModelSection
from rolemesh.config.schema_server import LogSection, TimeoutsSection, TlsSection
from rolemesh.config.shape import ReadAs, about
from rolemesh.core.types import Timeouts


@frozen(kw_only=True)
class GatewaySection:
    host: Host = field(
        default="127.0.0.1",
        metadata=about("Address to listen on. Beyond loopback the gateway insists on client keys."),
    )
    port: Port = field(default=8000, metadata=about("Port to listen on; 0 takes any free one."))
    drain_timeout_s: Wait = field(
        default=30.0,
        metadata=about(
            "How long requests in flight may go on after SIGTERM or SIGINT; streams that are left"
            " then end with an error event."
        ),
    )
    max_body_bytes: Size = field(
        default=33_554_432, metadata=about("Largest request body; 413 beyond it.")
    )
    request_id_header: IdHeaderName = field(
        default="X-Request-ID",
        metadata=about("Header that carries a request's id, from the client and back to it."),
    )
    state_path: FilePath | None = field(
        default=None,
        metadata=about(
            "File for what must survive a restart (nodes, their tokens, drains). It is locked: a"
            " second gateway on it is refused.",
            unset="gateway.json in $STATE_DIRECTORY, else in $XDG_STATE_HOME/rolemesh",
        ),
    )
    fast_lane: bool = field(
        default=True,
        metadata=about(
            "Serve ordinary model requests by the short way. Off, all go through aiohttp: slower,"
            " and the same in all that a client can see."
        ),
    )
    trusted_proxies: tuple[TrustedProxy, ...] = field(
        default=(),
        metadata=about(
            "Reverse proxies whose X-Forwarded-For is believed. When set, an empty admin or node"
            " list admits nobody."
        ),
    )
    tls: TlsSection | None = field(
        default=None, metadata=about("Serve HTTPS with this certificate.")
    )


@frozen(kw_only=True)
class RegistrySection:
    stale_after_s: Stale = field(
        default=30.0,
        metadata=about(
            "A node that was not heard of for this long gets no requests.",
            variable="ROLE_MESH_NODE_STALE_AFTER_S",
        ),
    )
    forget_after_s: Seconds = field(
        default=86_400.0, metadata=about("A stale node stays visible this long.")
    )


@frozen(kw_only=True)
class GatewayFile:
    version: Version = field(default=1, metadata=about("Version of this format."))
    default_model: Alias | None = field(
        default=None, metadata=about('Used when a request has no "model"; what /ready speaks of.')
    )
    gateway: GatewaySection = field(
        default=GatewaySection(), metadata=about("Where and how the gateway listens.")
    )
    log: LogSection = field(
        default=LogSection(), metadata=about("What is logged to standard error.")
    )
    timeouts: Annotated[Timeouts, ReadAs(TimeoutsSection)] = field(
        default=Timeouts(), metadata=about("No request can hang for ever.")
    )
    auth: AuthSection = field(
        default=AuthSection(),
        metadata=about("Who may come in. A null here is always an error: it would open the door."),
    )
    registry: RegistrySection = field(
        default=RegistrySection(), metadata=about("How long nodes are trusted to be there.")
    )
    models: Mapping[Alias, Annotated[ModelSection, MODEL_TYPES]] = field(
        factory=dict, metadata=about("What clients may ask for, by alias.")
    )
