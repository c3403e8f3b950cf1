"""The keys under `models`: what clients may ask for, and which servers answer.

Rules between them are in `checks_gateway`; aliases are made of them by `compile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from attrs import field, frozen

from rolemesh.config.kinds import (
    Alias,
    Count,
    FilePath,
    HeaderName,
    Line,
    Name,
    ReadableFile,
    Scheme,
    Seconds,
    Token,
    Url,
    Wait,
)
from rolemesh.config.shape import Inline, OneOf, about


@frozen(kw_only=True)
class ModelTimeouts:
    connect_s: Seconds | None = field(
        default=None,
        metadata=about("Like timeouts.connect_s, for this model.", unset="timeouts.connect_s"),
    )
    first_byte_s: Seconds | None = field(
        default=None,
        metadata=about(
            "Like timeouts.first_byte_s, for this model.", unset="timeouts.first_byte_s"
        ),
    )
    idle_s: Seconds | None = field(
        default=None,
        metadata=about("Like timeouts.idle_s, for this model.", unset="timeouts.idle_s"),
    )


@frozen(kw_only=True)
class Upstream:
    """How requests are sent to one base URL."""

    model_id: Line | None = field(
        default=None,
        metadata=about(
            "The model's name as this server expects it.",
            unset="defaults.model, else what the client sent, else openai_model_name",
        ),
    )
    auth_token: Token = field(
        default="", repr=False, metadata=about("Credential for this server; empty: none is sent.")
    )
    auth_token_file: FilePath | None = field(
        default=None, metadata=about("File that holds the credential; one trailing newline is cut.")
    )
    auth_header: HeaderName = field(
        default="Authorization", metadata=about("Header that carries the credential.")
    )
    auth_scheme: Scheme = field(
        default="Bearer",
        metadata=about("Put before the credential, in the Authorization header only."),
    )
    max_in_flight: Count | None = field(
        default=None,
        metadata=about("Most requests at once; the others wait for queue_s.", unset="unbounded"),
    )
    ca_file: ReadableFile | None = field(
        default=None,
        metadata=about(
            "Certificate authorities in PEM for this server alone.",
            unset="the system's authorities",
        ),
    )


@frozen(kw_only=True)
class BackendSection:
    """A server of the model."""

    name: Name | None = field(
        default=None,
        metadata=about(
            "What metrics, logs and X-RoleMesh-Backend call it.", unset="host and port of base_url"
        ),
    )
    base_url: Url = field(metadata=about("Where the server is; a trailing /v1 is dropped."))
    upstream: Annotated[Upstream, Inline()] = field()


@frozen(kw_only=True)
class Offer:
    """What every kind of model has."""

    openai_model_name: Alias | None = field(
        default=None,
        metadata=about(
            "The model's id in /v1/models; clients may send it or the alias.", unset="the alias"
        ),
    )
    defaults: Mapping[Line, Any] = field(
        factory=dict,
        metadata=about(
            "Request keys with the values they get where the request does not set them."
        ),
    )
    timeouts: ModelTimeouts = field(
        default=ModelTimeouts(), metadata=about("Timeouts of this model.")
    )
    queue_s: Wait = field(
        default=30.0,
        metadata=about("How long a request may wait while every backend has as many as it may."),
    )


@frozen(kw_only=True)
class ProxyModel:
    """A model on servers that are named here. Exactly one of proxy_url and backends is written."""

    type: Literal["proxy"] = field(
        default="proxy", metadata=about("The model's servers are named here.")
    )
    proxy_url: Url | None = field(
        default=None, metadata=about("The one server of the model; a trailing /v1 is dropped.")
    )
    upstream: Annotated[Upstream, Inline()] = field(default=Upstream())
    backends: tuple[BackendSection, ...] = field(
        default=(),
        metadata=about(
            "The model's servers, in order of priority: the next is tried when one fails."
        ),
    )
    offer: Annotated[Offer, Inline()] = field(default=Offer())


@frozen(kw_only=True)
class DiscoveredModel:
    """A model on whatever nodes registered for its role."""

    type: Literal["discovered"] = field(
        default="discovered", metadata=about("The model's servers are nodes that register.")
    )
    role: Line | None = field(
        default=None, metadata=about("The role a node has to offer.", unset="the alias")
    )
    strategy: Literal["round_robin", "random"] = field(
        default="round_robin", metadata=about("How requests are spread over the nodes.")
    )
    prefer_ready: bool = field(
        default=True, metadata=about("Nodes that would have to load the model first come last.")
    )
    offer: Annotated[Offer, Inline()] = field(default=Offer())


ModelSection = ProxyModel | DiscoveredModel
MODEL_TYPES = OneOf("type", {"proxy": ProxyModel, "discovered": DiscoveredModel})
