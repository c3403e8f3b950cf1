"""What may pass the gateway in a head, each way, and what the gateway adds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config, Pair, Solo
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.script import Answer, Head, LastChunk, Stream, event

SECRET = "the-clients-own-secret"


@pytest.fixture(scope="module")
def config(told: FakeBackend, tmp_path_factory: pytest.TempPathFactory) -> Config:
    token_file: Path = tmp_path_factory.mktemp("tokens") / "token"
    token_file.write_text("from-a-file\n")

    def proxy(**fields: object) -> dict[str, object]:
        return {"type": "proxy", "proxy_url": told.url, **fields}

    return {
        "auth": {"client_api_keys": [SECRET]},
        "models": {
            "bearer": proxy(auth_token="t"),
            "own-scheme": proxy(auth_token="t", auth_scheme="Token"),
            "own-header": proxy(auth_token="t", auth_header="X-Key"),
            "empty": proxy(auth_token=""),
            "file": proxy(auth_token_file=str(token_file)),
            "prefix": {"type": "proxy", "proxy_url": f"{told.url}/openai/v1/"},
            "v1": {"type": "proxy", "proxy_url": f"{told.url}/v1"},
        },
    }


@pytest.fixture(scope="module")
def told() -> Iterator[FakeBackend]:
    with FakeBackend() as backend:
        yield backend


KEY = ("Authorization", f"Bearer {SECRET}")


# Towards the backend


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Type", "application/json"),
        ("Accept", "text/event-stream"),
        ("User-Agent", "somebody/1.0"),
        ("OpenAI-Beta", "assistants=v2"),
        ("anthropic-version", "2023-06-01"),
        ("X-Custom", "a, b;c=d"),
    ],
)
def test_an_ordinary_header_passes(
    gateway: GatewayProcess, solo: Solo, name: str, value: str
) -> None:
    body = b'{"model":"%b"}' % solo.alias.encode()
    gateway.call("POST", "/v1/chat/completions", [KEY, (name, value)], body)
    assert solo.backend.next().all(name) == [value]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Api-Key", SECRET),
        ("X-RoleMesh-Node-Key", "k"),
        ("X-RoleMesh-Anything", "k"),
        ("Cookie", "session=1"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("X-Conversation-Id", "c1"),
        ("x-conversation-id", "c1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X-A"),
        ("Upgrade", "websocket"),
        ("Expect", "100-continue"),
    ],
)
def test_these_do_not_pass(gateway: GatewayProcess, solo: Solo, name: str, value: str) -> None:
    assert gateway.chat(solo.alias, [KEY, (name, value)]).status == 200
    received = solo.backend.next()
    assert received.get(name) is None
    assert SECRET.encode() not in received.raw_head
    assert received.get("Authorization") is None


def test_the_backend_is_not_asked_to_compress(gateway: GatewayProcess, solo: Solo) -> None:
    """Events inside a compressed stream could not be told apart."""
    gateway.chat(solo.alias, [KEY, ("Accept-Encoding", "gzip, br")])
    assert solo.backend.next().get("Accept-Encoding") in (None, "identity")


def test_what_connection_names_does_not_pass(gateway: GatewayProcess, solo: Solo) -> None:
    named = [("Connection", "keep-alive, X-Hop , x-other"), ("X-Hop", "1"), ("X-Other", "2")]
    gateway.chat(solo.alias, [KEY, *named, ("X-Kept", "3")])
    received = solo.backend.next()
    assert received.get("X-Hop") is None
    assert received.get("X-Other") is None
    assert received.get("X-Kept") == "3"


def test_connection_cannot_take_away_what_the_gateway_needs(
    gateway: GatewayProcess, solo: Solo
) -> None:
    named = [("Connection", "Content-Length, Host, Content-Type, Via")]
    assert gateway.chat(solo.alias, [KEY, *named]).status == 200
    received = solo.backend.next()
    assert received.get("Host")
    assert received.get("Content-Length")
    assert received.get("Via")


def test_the_backend_sees_its_own_host_and_one_length(gateway: GatewayProcess, solo: Solo) -> None:
    gateway.chat(solo.alias, [KEY])
    received = solo.backend.next()
    assert received.get("Host") == f"127.0.0.1:{solo.backend.port}"
    assert received.get("Content-Length") == str(len(received.body))
    assert received.get("Transfer-Encoding") is None


@pytest.mark.parametrize(
    ("alias", "header", "value"),
    [
        ("bearer", "Authorization", "Bearer t"),
        ("own-scheme", "Authorization", "Token t"),
        ("own-header", "X-Key", "t"),
        ("empty", "Authorization", None),
        ("file", "Authorization", "Bearer from-a-file"),
    ],
)
def test_the_backend_gets_the_credential_it_was_given(
    gateway: GatewayProcess, told: FakeBackend, alias: str, header: str, value: str | None
) -> None:
    gateway.chat(alias, [KEY])
    assert told.next().get(header) == value


@pytest.mark.parametrize(
    ("alias", "target"), [("prefix", "/openai/v1/embeddings"), ("v1", "/v1/embeddings")]
)
def test_the_path_goes_behind_the_backends_own(
    gateway: GatewayProcess, told: FakeBackend, alias: str, target: str
) -> None:
    assert gateway.post("/v1/embeddings", {"model": alias}, [KEY]).status == 200
    assert told.next().target == target


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    ],
)
def test_every_path_stays_the_same(gateway: GatewayProcess, solo: Solo, path: str) -> None:
    assert gateway.post(path, {"model": solo.alias}, [KEY]).status == 200
    received = solo.backend.next()
    assert (received.method, received.target) == ("POST", path)


# Towards the client


def test_the_gateway_says_who_answered(gateway: GatewayProcess, pair: Pair, solo: Solo) -> None:
    reply = gateway.chat(pair.alias, [KEY, ("X-Request-ID", "mine")])
    assert reply.get("X-Request-ID") == "mine"
    assert reply.get("X-RoleMesh-Alias") == pair.alias
    assert (reply.get("X-RoleMesh-Backend") or "").endswith("first")
    assert reply.get("X-RoleMesh-Node") is None
    assert reply.get("X-RoleMesh-Model") == pair.alias
    solo.backend.script(Stream((event("a"),)))
    reply = gateway.chat(solo.alias, [KEY], stream=True)
    assert reply.get("X-RoleMesh-Alias") == solo.alias
    assert reply.get("X-RoleMesh-Model") == solo.alias


DROPPED = [
    ("Set-Cookie", "a=b"),
    ("Keep-Alive", "timeout=5, max=100"),
    ("Proxy-Authenticate", "Basic"),
    ("Proxy-Connection", "keep-alive"),
    ("Connection", "X-Hop"),
    ("X-Hop", "1"),
    ("Upgrade", "h2c"),
    ("Trailer", "X-A"),
    ("Alt-Svc", 'h2=":443"'),
    ("X-RoleMesh-Alias", "forged"),
    ("X-RoleMesh-Error", "gateway"),
    ("X-RoleMesh-Secret", "forged"),
    ("X-Request-ID", "the-backends"),
]
KEPT = [
    ("X-Custom", "a, b"),
    ("Retry-After", "3"),
    ("openai-processing-ms", "12"),
    ("X-Ratelimit-Remaining-Requests", "5"),
    ("Access-Control-Allow-Origin", "*"),
]


@pytest.mark.parametrize("stream", [True, False])
def test_what_passes_to_the_client(gateway: GatewayProcess, solo: Solo, stream: bool) -> None:
    odd = [*DROPPED, *KEPT]
    if stream:
        solo.backend.script(Stream((event("a"),), headers=odd))
    else:
        solo.backend.script(Answer.json({}, headers=odd))
    reply = gateway.chat(solo.alias, [KEY], stream=stream)
    assert reply.status == 200
    for name, value in KEPT:
        assert reply.get(name) == value
    for name, value in DROPPED:
        assert value not in reply.head.all(name)
    assert reply.get("X-RoleMesh-Alias") == solo.alias
    assert reply.get("X-RoleMesh-Error") is None


def test_a_header_that_comes_twice_stays_so(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Answer.json({}, headers=[("X-A", "1"), ("X-A", "2")]))
    assert gateway.chat(solo.alias, [KEY]).head.all("X-A") == ["1", "2"]


def test_there_is_one_date_and_no_name_of_our_software(gateway: GatewayProcess, solo: Solo) -> None:
    dates = [("Date", "Sat, 01 Jan 2000 00:00:00 GMT"), ("Server", "llama.cpp")]
    solo.backend.script(Answer.json({}, headers=dates))
    reply = gateway.chat(solo.alias, [KEY])
    assert len(reply.head.all("Date")) == 1
    assert len(reply.head.all("Server")) <= 1
    assert "aiohttp" not in str(reply.head.headers) + str(gateway.get("/health").head.headers)


def test_a_stream_is_not_buffered_or_kept(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(
        Head(headers=[("Cache-Control", "public"), ("X-Accel-Buffering", "yes")]), LastChunk()
    )
    reply = gateway.post("/v1/responses", {"model": solo.alias, "stream": True}, [KEY])
    assert reply.head.all("Cache-Control") == ["no-cache"]
    assert reply.head.all("X-Accel-Buffering") == ["no"]


def test_nothing_is_kept_between_two_clients(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Answer.json({}, headers=[("Set-Cookie", "session=1; Path=/")]))
    gateway.chat(solo.alias, [KEY])
    solo.backend.next()
    gateway.chat(solo.alias, [KEY])
    assert solo.backend.next().get("Cookie") is None


# Loops


def test_a_request_that_came_through_here_is_a_loop(gateway: GatewayProcess, solo: Solo) -> None:
    gateway.chat(solo.alias, [KEY])
    via = solo.backend.next().get("Via") or ""
    assert via
    for value in (via, f"1.0 fred, {via}", f"{via}, 1.1 p.example.net (Apache/1.1)"):
        reply = gateway.chat(solo.alias, [KEY, ("Via", value)])
        expect.error(reply, 508, "loop_detected")
    assert solo.backend.none_came(0.05)


def test_other_proxies_in_via_are_kept(gateway: GatewayProcess, solo: Solo) -> None:
    gateway.chat(solo.alias, [KEY, ("Via", "1.0 fred"), ("Via", "1.1 wilma")])
    via = ", ".join(solo.backend.next().all("Via"))
    assert via.startswith("1.0 fred, 1.1 wilma, 1.1 ")


def test_two_gateways_in_a_circle_do_not_turn_for_ever(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with FakeBackend() as held:
        port = held.port
    first = GatewayProcess({"models": {}}, tmp_path)
    config = {"models": {"circle": {"type": "proxy", "proxy_url": f"http://127.0.0.1:{port}"}}}
    with GatewayProcess(config, tmp_path_factory.mktemp("second")) as second:
        back = f"http://127.0.0.1:{second.address[1]}"
        first.configure(
            {
                "gateway": {"port": port},
                "models": {"circle": {"type": "proxy", "proxy_url": back}},
            }
        )
        with first:
            reply = first.chat("circle")
            assert (reply.status, reply.json()["error"]["code"]) == (508, "loop_detected")
            assert reply.get("X-RoleMesh-Error") is None or reply.status == 508


def test_the_pseudonym_in_via_tells_nothing_and_differs(
    gateway: GatewayProcess, solo: Solo, tmp_path: Path
) -> None:
    gateway.chat(solo.alias, [KEY])
    ours = solo.backend.next().get("Via")
    config = {"models": {"a": {"type": "proxy", "proxy_url": solo.backend.url}}}
    with GatewayProcess(config, tmp_path) as other:
        other.chat("a")
        theirs = solo.backend.next().get("Via")
    assert theirs != ours
    assert "127.0.0.1" not in f"{ours}{theirs}"
