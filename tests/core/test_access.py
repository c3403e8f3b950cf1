from __future__ import annotations

import hashlib
from ipaddress import ip_network

import pytest

from rolemesh.core.access import (
    Key,
    Keyring,
    Peer,
    address_allowed,
    admit_admin,
    admit_client,
    admit_node,
    check_model,
    check_node,
    digest_of,
    may_use,
)
from rolemesh.core.types import Caller
from rolemesh.errors import InvalidApiKey, ModelNotAllowed, NotAllowed, RoleMeshError

ANNA = Caller("anna", key_id="k1")
NO_KEYS = Keyring()
KEYS = Keyring([Key(digest_of("sesame"), ANNA)])
DIRECT = Peer(loopback=True)
LAN = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def _answer(error: RoleMeshError) -> tuple[object, ...]:
    return (error.status, error.code, error.type, error.message, error.param, error.details)


def test_a_key_leads_to_its_caller() -> None:
    assert admit_client(KEYS, "sesame") is ANNA
    assert admit_admin(KEYS, "sesame", Peer(loopback=False), trusted_proxies=True) is ANNA
    assert admit_node(KEYS, "sesame", Peer(loopback=False), trusted_proxies=True) is ANNA


def test_missing_and_wrong_keys_get_the_same_answer() -> None:
    answers = []
    for presented in (None, "", "wrong", "sesame ", "\udcff", "\ud800", "k\x00y"):
        with pytest.raises(InvalidApiKey) as raised:
            admit_client(KEYS, presented)
        answers.append(_answer(raised.value))
    assert len(set(answers)) == 1
    assert answers[0][0] == 401


def test_an_empty_client_list_asks_for_no_key() -> None:
    assert admit_client(NO_KEYS, None).name == "anonymous"
    assert admit_client(NO_KEYS, "anything").name == "anonymous"


def test_a_configured_list_asks_loopback_for_a_key_too() -> None:
    with pytest.raises(InvalidApiKey):
        admit_admin(KEYS, None, DIRECT, trusted_proxies=False)
    with pytest.raises(InvalidApiKey):
        admit_node(KEYS, None, DIRECT, trusted_proxies=False)


@pytest.mark.parametrize("admit", [admit_admin, admit_node])
@pytest.mark.parametrize(
    ("peer", "trusted_proxies", "admitted"),
    [
        (DIRECT, False, True),
        (DIRECT, True, False),
        (Peer(loopback=False), False, False),
        (Peer(loopback=True, forwarded=True), False, False),
        (Peer(loopback=True, origin=True), False, False),
        (Peer(loopback=True, host_loopback=False), False, False),
    ],
)
def test_an_empty_list_admits_direct_loopback_requests_only(
    admit: object, peer: Peer, trusted_proxies: bool, admitted: bool
) -> None:
    assert callable(admit)
    if admitted:
        assert admit(NO_KEYS, None, peer, trusted_proxies).name == "loopback"
        return
    with pytest.raises(InvalidApiKey):
        admit(NO_KEYS, None, peer, trusted_proxies)


def test_a_digest_is_that_of_the_bytes_that_came() -> None:
    assert digest_of("\udcff\udcfe") == hashlib.sha256(b"\xff\xfe").digest()
    assert digest_of("schlüssel") == hashlib.sha256("schlüssel".encode()).digest()


def test_a_keyring_knows_the_ids_of_its_keys() -> None:
    keys = Keyring([Key(b"1", ANNA), Key(b"2", Caller("nobody"))])
    assert len(keys) == 2
    assert {key_id: caller.key_id for key_id, caller in keys.by_key_id.items()} == {"k1": "k1"}


def test_a_limited_key_may_use_its_aliases_only() -> None:
    limited = Caller("ci", models=frozenset({"writer"}))
    assert may_use(limited, "writer")
    assert not may_use(limited, "planner")
    assert may_use(ANNA, "planner")
    check_model(limited, "writer")
    with pytest.raises(ModelNotAllowed):
        check_model(limited, "planner")
    with pytest.raises(ModelNotAllowed):
        check_model(Caller("none", models=frozenset()), "writer")


@pytest.mark.parametrize(
    ("limits", "node_id", "roles", "host", "param"),
    [
        ({}, "any", ["x"], "192.0.2.1", None),
        ({"node_ids": {"gpu"}}, "gpu", ["x"], "192.0.2.1", None),
        ({"node_ids": {"gpu"}}, "gpu2", ["x"], "192.0.2.1", "node_id"),
        ({"roles": {"a", "b"}}, "gpu", ["a"], "192.0.2.1", None),
        ({"roles": {"a", "b"}}, "gpu", ["a", "c"], "192.0.2.1", "served_models"),
        ({"roles": set()}, "gpu", ["a"], "192.0.2.1", "served_models"),
        ({"networks": LAN}, "gpu", ["a"], "10.1.2.3", None),
        ({"networks": LAN}, "gpu", ["a"], "fd00::7", None),
        ({"networks": LAN}, "gpu", ["a"], "::ffff:10.1.2.3", None),
        ({"networks": LAN}, "gpu", ["a"], "169.254.169.254", "base_url"),
        ({"networks": LAN}, "gpu", ["a"], "::ffff:127.0.0.1", "base_url"),
        ({"networks": LAN}, "gpu", ["a"], "::1", "base_url"),
        ({"networks": ()}, "gpu", ["a"], "10.1.2.3", "base_url"),
        ({"networks": LAN}, "gpu", ["a"], "judged-when-connected.example", None),
    ],
)
def test_a_node_key_cannot_go_beyond_its_limits(
    limits: dict[str, object], node_id: str, roles: list[str], host: str, param: str | None
) -> None:
    frozen = {key: frozenset(v) if isinstance(v, set) else v for key, v in limits.items()}
    caller = Caller("node", **frozen)  # type: ignore[arg-type]
    if param is None:
        check_node(caller, node_id, roles, host)
        return
    with pytest.raises(NotAllowed) as raised:
        check_node(caller, node_id, roles, host)
    assert raised.value.param == param


def test_the_address_connected_to_must_lie_in_the_networks() -> None:
    assert address_allowed("203.0.113.5", None)
    assert address_allowed("10.0.0.9", LAN)
    assert not address_allowed("127.0.0.1", LAN)
    assert not address_allowed("10.0.0.9", ())
    assert not address_allowed("a-name.example", LAN)
