"""The keys under `auth`: who may come in, and what they may do.

Rules between them are in `checks_gateway`; keyrings are made of them by `compile`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from attrs import field, frozen

from rolemesh.config.kinds import (
    Alias,
    Cidr,
    FilePath,
    Key,
    KeyHash,
    Line,
    Name,
)
from rolemesh.config.shape import Inline, about


@frozen(kw_only=True)
class KeySource:
    """A key and what to call it. Exactly one of `key`, `key_file` and `key_hash` is written."""

    name: Name | None = field(
        default=None,
        metadata=about(
            "What logs and metrics call the key's holder.", unset="client-1, node-1, ..."
        ),
    )
    key: Key | None = field(default=None, repr=False, metadata=about("The key itself."))
    key_file: FilePath | None = field(
        default=None, metadata=about("File that holds the key; one trailing newline is cut.")
    )
    key_hash: KeyHash | None = field(
        default=None,
        repr=False,
        metadata=about("The key's SHA-256, so that the file need not hold the key."),
    )


@frozen(kw_only=True)
class ClientKey:
    """A client's key. Text in its place is the key itself."""

    SHORTHAND: ClassVar[str] = "key"

    source: Annotated[KeySource, Inline()] = field()
    models: tuple[Alias, ...] | None = field(
        default=None,
        metadata=about("Aliases that the key may use; an empty list allows none.", unset="all"),
    )


@frozen(kw_only=True)
class NodeKey:
    """A key with which nodes register. Text in its place is the key itself."""

    SHORTHAND: ClassVar[str] = "key"

    source: Annotated[KeySource, Inline()] = field()
    node_ids: tuple[Name, ...] | None = field(
        default=None, metadata=about("Nodes that may register with the key.", unset="any")
    )
    roles: tuple[Line, ...] | None = field(
        default=None, metadata=about("Roles that its nodes may offer.", unset="any")
    )
    networks: tuple[Cidr, ...] | None = field(
        default=None, metadata=about("Networks in which its nodes' base_url may lie.", unset="any")
    )


@frozen(kw_only=True)
class AdminKey:
    """A key for the routes of operators. Text in its place is the key itself."""

    SHORTHAND: ClassVar[str] = "key"

    source: Annotated[KeySource, Inline()] = field()


@frozen(kw_only=True)
class AuthSection:
    client_api_keys: tuple[ClientKey, ...] = field(
        default=(),
        metadata=about(
            "Keys of clients: text, or mappings as below. Without any, clients need none, which"
            " is refused beyond loopback unless allow_anonymous says so."
        ),
    )
    node_api_keys: tuple[NodeKey, ...] = field(
        default=(),
        metadata=about(
            "Keys with which nodes register: text, or mappings as below. Without any, only nodes"
            " on this machine may."
        ),
    )
    admin_api_keys: tuple[AdminKey, ...] = field(
        default=(),
        metadata=about(
            "Keys for /v1/nodes and drains: text, or mappings as below. Without any, only"
            " callers on this machine may, and none behind a proxy."
        ),
    )
    allow_anonymous: bool = field(
        default=False, metadata=about("Serve clients without keys beyond loopback too.")
    )
