"""Which failures let another backend try, which do not, and what the client gets in the end."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from attrs import frozen

from tests.blackbox import expect
from tests.blackbox.conftest import Config, Pair, Solo
from tests.dead_ports import RefusedPort, SilentPort
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.script import (
    Answer,
    Chunk,
    Die,
    Head,
    Send,
    Stall,
    Step,
    completion,
    event,
)

PATH = "/v1/chat/completions"


@frozen
class Dead:
    refused: RefusedPort
    silent: SilentPort
    spare: FakeBackend
    distrusted: FakeBackend


@pytest.fixture(scope="module")
def dead() -> Iterator[Dead]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with FakeBackend() as spare, FakeBackend(tls) as distrusted:
        ports = Dead(RefusedPort(), SilentPort(), spare, distrusted)
        yield ports
        ports.refused.close()
        ports.silent.close()


@pytest.fixture(scope="module")
def config(dead: Dead) -> Config:
    wrong = {
        "refused": dead.refused.url,
        "unknown-name": "http://no-such-host.invalid:80",
        "no-time": dead.silent.url,
        "wrong-tls": dead.distrusted.url,
    }
    working = {"base_url": dead.spare.url, "model_id": "spare-model"}
    models: dict[str, Any] = {
        name: {
            "type": "proxy",
            "backends": [{"name": "first", "base_url": url}, {"name": "second", **working}],
        }
        for name, url in wrong.items()
    }
    models |= {f"only-{name}": {"type": "proxy", "proxy_url": url} for name, url in wrong.items()}
    models["late"] = {
        "type": "proxy",
        "timeouts": {"first_byte_s": 0.4},
        "backends": [
            {"name": "first", "base_url": dead.spare.url},
            {"name": "second", "base_url": dead.spare.url},
        ],
    }
    return {"timeouts": {"connect_s": 0.5}, "models": models}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("alias", ["refused", "unknown-name", "no-time", "wrong-tls"])
def test_a_connection_that_cannot_be_made_leaves_it_to_the_next(
    gateway: GatewayProcess, alias: str, stream: bool
) -> None:
    reply = gateway.chat(alias, stream=stream)
    assert reply.status == 200
    assert reply.get("X-RoleMesh-Backend") in ("second", f"{alias}/second")
    assert reply.get("X-RoleMesh-Model") == "spare-model"


@pytest.mark.parametrize(
    ("alias", "reason"),
    [
        ("only-refused", "connection_refused"),
        ("only-unknown-name", "name_not_resolved"),
        ("only-no-time", "connect_timeout"),
        ("only-wrong-tls", "tls_failed"),
    ],
)
def test_with_no_other_the_reason_is_told(gateway: GatewayProcess, alias: str, reason: str) -> None:
    reply = gateway.chat(alias)
    error = expect.error(reply, 503, "no_available_backend")
    assert reply.get("Retry-After")
    assert [entry["reason"] for entry in error["details"]] == [reason]


LOST: dict[str, list[Step]] = {
    "after the request": [Die()],
    "after the request, reset": [Die(reset=True)],
    "in the status line": [Send(b"HTTP/1.1 2"), Die()],
    "in the head": [Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev"), Die()],
    "between head and body": [Head(), Die()],
    "between head and body, with a length": [
        Head(content_type="application/json", framing="Content-Length: 5"),
        Die(),
    ],
    "in the first chunk's size": [Head(), Send(b"1"), Die()],
    "after interim answers": [Send(b"HTTP/1.1 102 Processing\r\n\r\n"), Die()],
}


@pytest.mark.parametrize("steps", LOST.values(), ids=LOST)
@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_lost_before_the_first_byte_leaves_it_to_the_next(
    gateway: GatewayProcess, pair: Pair, steps: list[Step], stream: bool
) -> None:
    pair.first.otherwise(*steps)
    reply = gateway.chat(pair.alias, stream=stream)
    assert reply.status == 200
    assert pair.first.next().body == pair.second.next().body
    assert pair.first.none_came(0.02)


@pytest.mark.parametrize("status", [401, 403, 429, 502, 503])
def test_an_answer_that_says_not_here_or_not_now_leaves_it_to_the_next(
    gateway: GatewayProcess, pair: Pair, status: int
) -> None:
    pair.first.script(Answer.error(status))
    reply = gateway.chat(pair.alias)
    assert (reply.status, reply.json()) == (200, completion())
    pair.first.next()
    pair.second.next()


@pytest.mark.parametrize("status", [200, 400, 404, 408, 409, 413, 422, 500, 501, 504, 529])
def test_any_other_answer_is_the_answer(gateway: GatewayProcess, pair: Pair, status: int) -> None:
    pair.first.script(Answer.error(status, "first's own"))
    reply = gateway.chat(pair.alias)
    assert (reply.status, reply.json()["error"]["message"]) == (status, "first's own")
    expect.upstreams_own(reply)
    assert pair.second.none_came(0.02)


@pytest.mark.parametrize("status", [429, 502, 503])
def test_the_last_ones_refusal_passes_through(
    gateway: GatewayProcess, pair: Pair, status: int
) -> None:
    pair.first.script(Answer.error(503, "first's own"))
    pair.second.script(
        Answer.data(b'{"error":"second\'s own"}', status, headers=[("Retry-After", "7")])
    )
    reply = gateway.chat(pair.alias)
    assert (reply.status, reply.body) == (status, b'{"error":"second\'s own"}')
    assert reply.get("Retry-After") == "7"
    expect.upstreams_own(reply)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_our_credential_is_not_the_clients_fault(
    gateway: GatewayProcess, pair: Pair, status: int
) -> None:
    pair.first.script(Answer.error(503))
    pair.second.script(Answer.error(status, "wrong second-token"))
    reply = gateway.chat(pair.alias)
    expect.error(reply, 502, "upstream_error", echo="second-token")


def test_lost_everywhere_is_an_upstream_error(gateway: GatewayProcess, pair: Pair) -> None:
    pair.first.otherwise(Die())
    pair.second.otherwise(Head(), Die())
    expect.error(gateway.chat(pair.alias), 502, "upstream_error")


def test_a_fresh_connection_that_is_lost_is_not_tried_again_there(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.script(Die())
    expect.error(gateway.chat(solo.alias), 502, "upstream_error")
    solo.backend.next()
    assert solo.backend.none_came()


def test_once_a_byte_is_out_there_is_no_other_try(gateway: GatewayProcess, pair: Pair) -> None:
    pair.first.script(Head(), Chunk(event("a")), Stall(0.1), Die())
    expect.broken_stream(gateway.chat(pair.alias, stream=True).body, "upstream_error")
    assert pair.second.none_came(0.05)


def test_even_half_an_event_that_nobody_saw_may_be_made_good(
    gateway: GatewayProcess, pair: Pair
) -> None:
    """No byte has reached the client: what it gets is one whole stream, or an honest end."""
    pair.first.script(Head(), Chunk(event("a")[:10]), Stall(0.1), Die())
    reply = gateway.chat(pair.alias, stream=True)
    if pair.second.none_came(0.05):
        assert expect.broken_stream(reply.body, "upstream_error") == []
    else:
        expect.whole_stream(reply.body)


def test_time_running_out_ends_the_request(gateway: GatewayProcess, dead: Dead) -> None:
    dead.spare.script(Stall())
    while not dead.spare.none_came(0.01):
        pass
    began = time.monotonic()
    expect.error(gateway.chat("late"), 504, "upstream_timeout")
    assert time.monotonic() - began < 1.5
    assert dead.spare.next().closed_within(1)
    assert dead.spare.none_came(0.05)


def test_each_backend_gets_its_own_credential(gateway: GatewayProcess, pair: Pair) -> None:
    pair.first.script(Answer.error(503))
    gateway.chat(pair.alias, [("Authorization", "Bearer the-clients")])
    assert pair.first.next().get("Authorization") == "Bearer first-token"
    assert pair.second.next().get("Authorization") == "Bearer second-token"
