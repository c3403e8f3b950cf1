"""Who is let in: keys, and the table of rules for those who have none to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rolemesh.core.types import Caller
from rolemesh.errors import InvalidApiKey
from rolemesh.gateway import doors
from rolemesh.gateway.live import Live
from rolemesh.server.inbound import Inbound
from tests.gateway.configured import live
from tests.gateway.received import Received, inbound

LOCAL = ("Host", "127.0.0.1:8000")
KEYS = {
    "client_api_keys": ["c-key", {"name": "limited", "key": "l-key", "models": ["writer"]}],
    "node_api_keys": [{"name": "gpu", "key": "n-key"}],
    "admin_api_keys": [{"name": "ops", "key": "a-key"}],
}

Door = Callable[[Live, Inbound], Caller]


@pytest.fixture
def open_house(tmp_path: Path) -> Live:
    """No keys at all."""
    return live(tmp_path)


@pytest.fixture
def locked(tmp_path: Path) -> Live:
    return live(tmp_path, auth=KEYS)


def lets_in(door: Door, house: Live, received: Received) -> str | None:
    """The caller's name; None: turned away."""
    try:
        return door(house, inbound(received)).name
    except InvalidApiKey:
        return None


# Without keys: nodes and admin


@pytest.mark.parametrize(
    ("peer", "host", "direct"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "localhost:8000", True),
        ("127.0.0.1", "LocalHost.:8000", True),
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.8.9.10", "127.8.9.10", True),
        ("::1", "[::1]:8000", True),
        ("::1", "[::1]", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "[::ffff:127.0.0.1]:8000", True),
        ("127.0.0.1", "[0:0:0:0:0:0:0:1]", True),
        # The connection comes from elsewhere.
        ("10.0.0.1", "localhost:8000", False),
        ("::ffff:10.0.0.1", "localhost:8000", False),
        ("fe80::1", "localhost:8000", False),
        ("::", "localhost:8000", False),
        ("0.0.0.0", "localhost:8000", False),
        ("", "localhost:8000", False),
        (None, "localhost:8000", False),
        # A name that somebody else's DNS leads here.
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "evil.example:8000", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "evil.example:8000:127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1@evil.example", False),
        ("127.0.0.1", "10.0.0.1:8000", False),
        ("127.0.0.1", "[2001:db8::1]:8000", False),
        ("127.0.0.1", "[::ffff:10.0.0.1]", False),
        ("127.0.0.1", "0.0.0.0:8000", False),
        ("127.0.0.1", "2130706433", False),
        ("127.0.0.1", ":8000", False),
        ("127.0.0.1", "", False),
    ],
)
@pytest.mark.parametrize("door", [doors.admin, doors.node])
def test_without_keys_only_loopback_to_loopback_is_let_in(
    open_house: Live, door: Door, peer: str | None, host: str, direct: bool
) -> None:
    received = Received(("Host", host), peer=peer)
    assert lets_in(door, open_house, received) == ("loopback" if direct else None)


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-FORWARDED-HOST",
        "X-Forwarded-Anything",
        "X-Real-IP",
        "Via",
        "Origin",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
@pytest.mark.parametrize("door", [doors.admin, doors.node])
def test_without_keys_nothing_that_was_passed_on_or_came_from_a_page_is_let_in(
    open_house: Live, door: Door, name: str, value: str
) -> None:
    assert lets_in(door, open_house, Received(LOCAL, (name, value))) is None


def test_without_keys_a_request_without_a_host_is_turned_away(open_house: Live) -> None:
    assert lets_in(doors.admin, open_house, Received()) is None


@pytest.mark.parametrize("proxies", [["10.0.0.0/8"], ["localhost"]])
def test_without_keys_nobody_is_let_in_once_proxies_are_trusted(
    tmp_path: Path, proxies: list[str]
) -> None:
    house = live(tmp_path, gateway={"trusted_proxies": proxies})
    assert lets_in(doors.admin, house, Received(LOCAL)) is None
    assert lets_in(doors.node, house, Received(LOCAL)) is None


def test_without_keys_every_client_is_let_in(open_house: Live) -> None:
    for received in (
        Received(peer="203.0.113.5"),
        Received(("Authorization", "Bearer whatever")),
        Received(("Origin", "https://page.example")),
    ):
        assert lets_in(doors.client, open_house, received) == "anonymous"


# With keys


@pytest.mark.parametrize(
    ("door", "fields", "name"),
    [
        (doors.client, [("Authorization", "Bearer c-key")], "client-1"),
        (doors.client, [("authorization", "bearer  l-key ")], "limited"),
        (doors.client, [("X-Api-Key", "l-key")], "limited"),
        (doors.client, [("Authorization", "Bearer c-key"), ("X-Api-Key", "l-key")], "client-1"),
        (doors.client, [("Authorization", "Basic x"), ("X-Api-Key", "l-key")], "limited"),
        (doors.client, [("Authorization", "Bearer wrong"), ("X-Api-Key", "l-key")], None),
        (doors.client, [("Authorization", "c-key")], None),
        (doors.client, [("X-RoleMesh-Node-Key", "c-key")], None),
        (doors.client, [("Authorization", "Bearer n-key")], None),
        (doors.client, [("Authorization", "Bearer a-key")], None),
        (doors.client, [("Authorization", "Bearer s\udcff\udcfe")], None),
        (doors.client, [], None),
        (doors.node, [("X-RoleMesh-Node-Key", "n-key")], "gpu"),
        (doors.node, [("Authorization", "Bearer n-key")], "gpu"),
        (doors.node, [("X-Api-Key", "n-key")], None),
        (doors.node, [("Authorization", "Bearer c-key")], None),
        (doors.node, [LOCAL], None),
        (doors.admin, [("Authorization", "Bearer a-key")], "ops"),
        (doors.admin, [("X-Api-Key", "a-key")], "ops"),
        (doors.admin, [("X-RoleMesh-Node-Key", "a-key")], None),
        (doors.admin, [("Authorization", "Bearer c-key")], None),
        (doors.admin, [LOCAL], None),
    ],
)
def test_each_door_has_its_own_keys(
    locked: Live, door: Door, fields: list[tuple[str, str]], name: str | None
) -> None:
    assert lets_in(door, locked, Received(*fields)) == name


def test_a_key_is_good_from_anywhere_and_through_anything(locked: Live) -> None:
    received = Received(
        ("Host", "gateway.example"),
        ("Via", "1.1 proxy"),
        ("Origin", "https://page.example"),
        ("X-Api-Key", "a-key"),
        peer="203.0.113.5",
    )
    assert lets_in(doors.admin, locked, received) == "ops"


def test_a_missing_and_a_wrong_key_get_the_same_answer(locked: Live) -> None:
    messages = set()
    for received in (Received(), Received(("X-Api-Key", "wrong")), Received(("X-Api-Key", ""))):
        with pytest.raises(InvalidApiKey) as raised:
            doors.client(locked, inbound(received))
        messages.add(raised.value.message)
    assert len(messages) == 1


def test_operators_see_what_clients_see_with_a_key_of_their_own(
    locked: Live, open_house: Live, tmp_path: Path
) -> None:
    either = doors.client_or_admin
    assert lets_in(either, locked, Received(("X-Api-Key", "c-key"))) == "client-1"
    assert lets_in(either, locked, Received(("X-Api-Key", "a-key"))) == "ops"
    assert lets_in(either, locked, Received(("X-Api-Key", "n-key"))) is None
    assert lets_in(either, open_house, Received(LOCAL)) == "anonymous"
    # Loopback is no key: where clients need one, it is not let in by the back door.
    only_clients = live(tmp_path, auth={"client_api_keys": ["c-key"]})
    assert lets_in(either, only_clients, Received(LOCAL)) is None


# What the log says


@pytest.mark.parametrize(
    ("peer", "forwarded", "shown"),
    [
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.5", "10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5"], "203.0.113.5"),  # the first could be forged
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["2001:DB8::1"], "2001:db8::1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, \x1b[31m, 10.0.0.2"], "10.0.0.2"),
        ("192.0.2.7", ["203.0.113.5"], "192.0.2.7"),  # not a proxy of ours
        (None, ["203.0.113.5"], None),
    ],
)
def test_the_log_shows_the_last_address_that_a_trusted_proxy_vouches_for(
    tmp_path: Path, peer: str | None, forwarded: list[str], shown: str | None
) -> None:
    house = live(tmp_path, gateway={"trusted_proxies": ["10.0.0.0/8"]})
    fields = [("X-Forwarded-For", value) for value in forwarded]
    made = inbound(Received(*fields, peer=peer))
    doors.client(house, made)
    assert made.line.peer == shown


def test_without_trusted_proxies_nobody_is_believed(open_house: Live) -> None:
    made = inbound(Received(("X-Forwarded-For", "203.0.113.5")))
    doors.client(open_house, made)
    assert made.line.peer is None  # the server fills in the connection's own
    assert made.line.caller == "anonymous"
