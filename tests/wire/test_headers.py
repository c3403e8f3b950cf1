"""What passes a proxy, in both directions, and what headers say of the caller."""

from __future__ import annotations

import pytest

from rolemesh.wire.headers import answerable, forwardable, presented_key, request_id_ok

HOP_BY_HOP = [
    b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Transfer-Encoding",
    b"Upgrade", b"Proxy-Authenticate", b"Proxy-Authorization",
]  # fmt: skip


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_headers_pass_in_no_direction(name: bytes) -> None:
    assert forwardable([(name, b"x")]) == []
    assert answerable([(name.lower(), b"x")]) == []
    assert answerable([(name.upper(), b"x")]) == []


@pytest.mark.parametrize("direction", [forwardable, answerable])
def test_what_connection_names_is_dropped(direction: object) -> None:
    raw = [
        (b"X-One", b"1"),
        (b"Connection", b"close, X-ONE ,,\tx-two"),
        (b"x-two", b"2"),
        (b"connection", b"x-three"),
        (b"X-Three", b"3"),
        (b"X-Four", b"4"),
    ]
    assert direction(raw) == [(b"X-Four", b"4")]  # type: ignore[operator]


@pytest.mark.parametrize("value", [b"keep-alive", b"close", b"Keep-Alive, TE", b""])
def test_an_ordinary_connection_header_drops_nothing_else(value: bytes) -> None:
    raw = [(b"Connection", value), (b"Close", b"1"), (b"Accept", b"*/*")]
    assert forwardable(raw) == raw[1:]


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization", b"X-Api-Key", b"Cookie", b"X-Conversation-Id", b"Host", b"Content-Length",
        b"Expect", b"Accept-Encoding", b"X-RoleMesh-Node-Key", b"X-Forwarded-For", b"Forwarded",
        b"X-Real-IP", b"x-forwarded-anything", b"Origin",
    ],
)  # fmt: skip
def test_the_clients_own_affairs_are_not_forwarded(name: bytes) -> None:
    assert forwardable([(name, b"x"), (b"Accept", b"*/*")]) == [(b"Accept", b"*/*")]


@pytest.mark.parametrize(
    "name",
    [
        b"Set-Cookie", b"Content-Length", b"X-RoleMesh-Node", b"X-Request-ID", b"Alt-Svc",
        b"X-Accel-Redirect", b"x-accel-buffering",
    ],
)  # fmt: skip
def test_what_is_between_the_upstream_and_us_is_not_answered(name: bytes) -> None:
    assert answerable([(name, b"x"), (b"Server", b"llama.cpp")]) == [(b"Server", b"llama.cpp")]


def test_what_passes_keeps_its_order_spelling_and_repetitions() -> None:
    raw = [
        (b"Content-Type", b"application/json"),
        (b"anthropic-VERSION", b"2023-06-01"),
        (b"Via", b"1.1 other"),
        (b"Accept", b"a"),
        (b"Accept", b"\xff"),
    ]
    assert forwardable(raw) == raw
    assert answerable(raw) == raw


def test_more_can_be_dropped_by_name() -> None:
    raw = [(b"X-Correlation", b"1"), (b"Accept", b"*/*")]
    assert forwardable(raw, frozenset({b"x-correlation"})) == raw[1:]
    assert answerable(raw, frozenset({b"x-correlation"})) == raw[1:]


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"Authorization": "Bearer k"}, "k"),
        ({"Authorization": "bearer   k  "}, "k"),
        ({"Authorization": "Bearer k", "X-Api-Key": "other"}, "k"),
        ({"X-Api-Key": " k "}, "k"),
        ({"Authorization": "Basic k"}, None),
        ({"Authorization": "Basic a", "X-Api-Key": "k"}, "k"),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "Bearer", "X-Api-Key": "k"}, "k"),
        ({"Authorization": "k"}, None),
        ({"Authorization": ""}, None),
        ({"X-Api-Key": ""}, None),
        ({"X-RoleMesh-Node-Key": "k"}, None),
        ({"Authorization": "Bearer \udcff"}, "\udcff"),
    ],
)
def test_the_key_is_found(headers: dict[str, str], key: str | None) -> None:
    assert presented_key(headers.get, "X-Api-Key") == key


def test_each_kind_of_caller_has_its_own_header() -> None:
    assert presented_key({"X-RoleMesh-Node-Key": "k"}.get, "X-RoleMesh-Node-Key") == "k"
    assert presented_key({"X-Api-Key": "k"}.get) is None


@pytest.mark.parametrize("value", ["a", "A-z.0_9", "x" * 64])
def test_an_ordinary_request_id_is_kept(value: str) -> None:
    assert request_id_ok(value)


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", "a\n", "é", "a/b", '"'])
def test_an_odd_request_id_is_not(value: str) -> None:
    assert not request_id_ok(value)
