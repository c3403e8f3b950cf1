"""Who is asking, and what they may use: key -> caller -> yes or no.

Fed by `config` (keyrings) and by the server (the presented key, facts about the peer); read by the
gateway before anything of a request is looked at. Knows no HTTP: which header a key came in, and
whether an address is loopback, is judged elsewhere. Keys are configured as digests; comparing them
by dictionary reveals nothing by timing, because nobody can steer a digest, or Python's own hash of
a text, which is seeded by chance in each process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from attrs import frozen

from rolemesh.core.types import Caller, Network
from rolemesh.errors import InvalidApiKey, ModelNotAllowed, NotAllowed

ANONYMOUS = Caller("anonymous")
LOOPBACK = Caller("loopback")


@frozen
class Key:
    """A key's SHA-256, and whom it stands for."""

    digest: bytes
    caller: Caller


@frozen
class Peer:
    """What the connection and the request tell of who is really there.

    `loopback`: the connection comes from this host. `forwarded`: a forwarding header is present
    (Forwarded, X-Forwarded-*, X-Real-IP, Via). `origin`: an Origin header is present, so a browser
    sent it. `host_loopback`: the Host header names loopback, so no DNS rebinding.
    """

    loopback: bool
    forwarded: bool = False
    origin: bool = False
    host_loopback: bool = True


class Keyring:
    """The keys of one kind of caller. False when there are none."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._callers = {key.digest: key.caller for key in keys}
        self._met: dict[str, Caller] = {}  # by the keys themselves: no more than there are
        self.by_key_id: Mapping[str, Caller] = {
            caller.key_id: caller for caller in self._callers.values() if caller.key_id is not None
        }

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, presented: str) -> Caller | None:
        caller = self._met.get(presented)
        if caller is None:
            caller = self._callers.get(digest_of(presented))
            if caller is not None:
                self._met[presented] = caller
        return caller


def digest_of(presented: str) -> bytes:
    """SHA-256 of the key's own bytes. Takes any text: odd bytes in a header arrive as surrogates
    (surrogateescape); other lone surrogates can come out of a JSON file."""
    try:
        data = presented.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = presented.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).digest()


def admit_client(keys: Keyring, presented: str | None) -> Caller:
    """An empty keyring asks clients for no key. Raises InvalidApiKey."""
    caller = keys.find(presented) if presented else None
    if caller is not None:
        return caller
    if not keys:
        return ANONYMOUS
    raise _wrong_key()


def admit_admin(keys: Keyring, presented: str | None, peer: Peer, trusted_proxies: bool) -> Caller:
    """An empty keyring admits direct loopback requests only. Raises InvalidApiKey."""
    if keys:
        return _holder(keys, presented)
    if _is_direct(peer, trusted_proxies):
        return LOOPBACK
    raise InvalidApiKey(
        "No key of this kind is configured, so only direct requests from the server's own host"
        " are served: configure a key."
    )


def admit_node(keys: Keyring, presented: str | None, peer: Peer, trusted_proxies: bool) -> Caller:
    """By the rule for admin. Raises InvalidApiKey."""
    return admit_admin(keys, presented, peer, trusted_proxies)


def may_use(caller: Caller, alias_name: str) -> bool:
    return caller.models is None or alias_name in caller.models


def check_model(caller: Caller, alias_name: str) -> None:
    """Raises ModelNotAllowed, the same for every alias."""
    if not may_use(caller, alias_name):
        raise model_not_allowed()


def model_not_allowed() -> ModelNotAllowed:
    """The one answer to a limited key that asks for another alias, known or unknown."""
    return ModelNotAllowed("This key may not use that model.", param="model")


def check_node(caller: Caller, node_id: str, roles: Iterable[str], host: str) -> None:
    """Raises NotAllowed when a node key is used beyond its node_ids, roles or networks.

    `host` is judged here when it is an IP address; a name is judged when it is connected to, on
    the address that it then has (Backend.networks).
    """
    if caller.node_ids is not None and node_id not in caller.node_ids:
        raise NotAllowed("This key may not speak for that node_id.", param="node_id")
    if caller.roles is not None and not caller.roles.issuperset(roles):
        raise NotAllowed("This key may not serve one of these roles.", param="served_models")
    if caller.networks is None:
        return
    address = _address(host)
    if address is not None and not _lies_in(address, caller.networks):
        raise NotAllowed("This key may not register a base_url there.", param="base_url")


def address_allowed(address: str, networks: Iterable[Network] | None) -> bool:
    """Whether an address, as the socket tells it, lies in one of `networks` (None: anywhere)."""
    if networks is None:
        return True
    parsed = _address(address)
    return parsed is not None and _lies_in(parsed, networks)


def _holder(keys: Keyring, presented: str | None) -> Caller:
    caller = keys.find(presented) if presented else None
    if caller is None:
        raise _wrong_key()
    return caller


def _wrong_key() -> InvalidApiKey:
    return InvalidApiKey("The API key is missing or wrong.")


def _is_direct(peer: Peer, trusted_proxies: bool) -> bool:
    """Behind a proxy on the same host everyone comes from loopback; so nobody is let in by it."""
    vouched = peer.loopback and peer.host_loopback
    return vouched and not (peer.forwarded or peer.origin or trusted_proxies)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """An IPv4 address inside an IPv6 one (::ffff:10.0.0.1) is the IPv4 address."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _lies_in(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
