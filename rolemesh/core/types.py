"""What the rooms hand each other: frozen values, and the one interface towards a client.

Made by `config` and `wire`, decided on by `core`, used by `proxy` and `gateway`. Nothing here acts.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Protocol

from attrs import field, frozen

Network = IPv4Network | IPv6Network


@frozen(cache_hash=True)
class BaseUrl:
    """A backend's base URL, taken apart once. `prefix` is "" or starts with "/", and never ends
    with "/" or "/v1" (a trailing "/v1" is dropped when it is parsed)."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """For the Host header: IPv6 in brackets, the scheme's default port left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.tls else 80
        return host if self.port == default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"


@frozen
class Timeouts:
    """Seconds. `first_byte_s`: request sent to first byte; `idle_s`: between two chunks."""

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0


@frozen(cache_hash=True)
class Backend:
    """One base URL that serves models, and what is needed to send a request there.

    `label` names it in metrics and logs: `alias/name` for a proxy backend, the node_id for a node.
    `auth` is the credential's header name and value. `networks`, when not None, are the only
    networks in which the address really connected to may lie. `kept` is for what those who send
    requests there work out of it, once for all of them.
    """

    label: str
    name: str
    url: BaseUrl
    auth: tuple[str, str] | None = field(default=None, repr=False)
    ca_file: str | None = None
    node_id: str | None = None
    networks: tuple[Network, ...] | None = None
    kept: dict[object, Any] = field(factory=dict, init=False, repr=False, eq=False)


@frozen
class Candidate:
    """A backend that could serve a request, and the model_id it expects.

    `model_id` None: the alias decides what goes into `model` (see routing.model_to_send).
    `key` counts requests in flight; `limit` bounds them (None: unbounded). `ready` False: it would
    have to load the model first.
    """

    backend: Backend
    model_id: str | None
    key: str
    limit: int | None = None
    ready: bool = True


class Strategy(enum.Enum):
    PRIORITY = "priority"  # the listed order (proxy models)
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"


@frozen
class Alias:
    """What a client may send in `model`, and how it is served.

    Exactly one of `backends` (type proxy, by priority) and `role` (type discovered) is set.
    `defaults` maps a top-level request key to its JSON text.
    """

    name: str
    openai_model_name: str
    backends: tuple[Candidate, ...] = ()
    role: str | None = None
    strategy: Strategy = Strategy.PRIORITY
    prefer_ready: bool = True
    queue_s: float = 30.0
    timeouts: Timeouts = Timeouts()
    defaults: Mapping[str, bytes] = field(factory=dict)

    @property
    def type(self) -> str:
        return "proxy" if self.role is None else "discovered"


class ModelState(enum.Enum):
    """What a node says of a model it serves."""

    READY = "READY"
    LOADING = "LOADING"
    STOPPED = "STOPPED"
    DRAINING = "DRAINING"
    FATAL = "FATAL"


@frozen
class ServedModel:
    """A model that a node offers. `state` None: it did not say, so it counts as READY. `detail`:
    a line on why it is in that state, that clients may see."""

    model_id: str
    roles: tuple[str, ...]
    meta: Mapping[str, Any] = field(factory=dict)
    state: ModelState | None = None
    slots: int | None = None
    slots_busy: int | None = None
    max_context: int | None = None
    detail: str | None = None


@frozen
class Registration:
    """A node's wish to be routed to, already checked for form."""

    node_id: str
    url: BaseUrl
    served_models: tuple[ServedModel, ...]
    meta: Mapping[str, Any] = field(factory=dict)
    access_token: str | None = field(default=None, repr=False)


@frozen
class Heartbeat:
    """`served_models` None: unchanged. `metrics` None: not told."""

    node_id: str
    served_models: tuple[ServedModel, ...] | None = None
    metrics: Mapping[str, Any] | None = None


@frozen
class Caller:
    """Who is authenticated. None in a restriction means unrestricted.

    `name` is what logs and metrics show: the key's name, or `anonymous`/`loopback`.
    `key_id` identifies the key itself, so that removing it ends what it let in.
    """

    name: str
    key_id: str | None = None
    models: frozenset[str] | None = None
    node_ids: frozenset[str] | None = None
    roles: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None


# The short way to a client: takes whole chunks, framed as wire/http1.chunk does.
Straight = Callable[[bytes], object]


class Flow(Protocol):
    """The far side of a downstream: told when the client's buffer is full and when it has room.

    It counts what it sent on the short way: `straight_bytes` with their framing, `straight_body`
    without."""

    straight_bytes: int
    straight_body: int

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Downstream(Protocol):
    """The one way in which an answer reaches a client, whichever protocol serves its connection.

    Order of calls: `start` once, `write` any number of times, then `end` or `cut`. Nothing blocks;
    what the client does not read is bounded by the `Flow` given to `connect`. When the client
    leaves, the task that serves it is cancelled and `gone` is true.
    """

    @property
    def started(self) -> bool: ...

    @property
    def gone(self) -> bool: ...

    def connect(self, flow: Flow | None) -> Straight | None:
        """Tell `flow` from now on about back-pressure (at once, if the buffer is full now), and
        count what it sends. Returns the short way, if there is one: it may be used behind the first
        `write`, until `flow` is paused for good (the client has left) or another is connected."""

    def start(self, status: int, fields: bytes, length: int | None) -> None:
        """Write the head, with these header lines (wire/http1.lines). Framing is the downstream's:
        `length` None means until `end`."""

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        """The whole answer, instead of the calls above and below."""

    def write(self, data: bytes) -> None:
        """Write body bytes."""

    def end(self) -> None:
        """The answer is whole."""

    def cut(self) -> None:
        """The answer breaks off: end the connection so that the client can tell."""
