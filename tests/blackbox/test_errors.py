"""Every error of the gateway itself: its status, its code, its shape, its headers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config, Solo
from tests.dead_ports import RefusedPort
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import request_bytes

PATH = "/v1/chat/completions"
CAP = 100_000


@pytest.fixture(scope="module")
def refused() -> Iterator[RefusedPort]:
    port = RefusedPort()
    yield port
    port.close()


@pytest.fixture(scope="module")
def config(refused: RefusedPort) -> Config:
    return {
        "gateway": {"max_body_bytes": CAP},
        "models": {"down": {"type": "proxy", "proxy_url": refused.url}},
    }


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v2/models", "/%2e%2e"])
def test_an_unknown_path_is_not_found(gateway: GatewayProcess, path: str) -> None:
    expect.error(gateway.get(path), 404, "not_found")


def test_a_path_is_not_repeated_to_whoever_asked_for_it(gateway: GatewayProcess) -> None:
    reply = gateway.get("/some-<script>-path?query=secret")
    expect.error(reply, 404, "not_found", echo="script")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PATH, "POST"),
        ("DELETE", "/v1/messages", "POST"),
        ("POST", "/health", "GET"),
        ("PUT", "/v1/models", "GET"),
        ("PATCH", "/v1/nodes/register", "POST"),
    ],
)
def test_a_method_that_the_path_does_not_have(
    gateway: GatewayProcess, method: str, path: str, allowed: str
) -> None:
    reply = gateway.call(method, path)
    expect.error(reply, 405, "method_not_allowed", path=path)
    assert allowed in [word.strip() for word in (reply.get("Allow") or "").split(",")]


def test_a_method_that_nobody_knows(gateway: GatewayProcess) -> None:
    assert gateway.call("BREW", "/ready").status in (400, 405, 501)


def test_messages_gets_its_errors_as_its_clients_expect_them(gateway: GatewayProcess) -> None:
    reply = gateway.post("/v1/messages", chat_body("unknown"))
    expect.error(reply, 404, "model_not_found", path="/v1/messages")
    reply = gateway.post("/v1/messages", b"{")
    expect.error(reply, 400, "invalid_json", path="/v1/messages")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "nonsense"])
def test_a_compressed_request_is_refused(gateway: GatewayProcess, solo: Solo, coding: str) -> None:
    reply = gateway.post(PATH, b"\x1f\x8b\x08\x00nonsense", [("Content-Encoding", coding)])
    expect.error(reply, 415, "unsupported_media_type", echo="nonsense")
    assert solo.backend.none_came(0.05)


def test_identity_is_no_compression(gateway: GatewayProcess, solo: Solo) -> None:
    assert gateway.chat(solo.alias, [("Content-Encoding", "identity")]).status == 200


def test_a_body_of_just_the_cap_is_taken(gateway: GatewayProcess, solo: Solo) -> None:
    body = chat_body(solo.alias)
    assert gateway.post(PATH, body[:-1] + b" " * (CAP - len(body)) + b"}").status == 200
    assert len(solo.backend.next().body) == CAP


def test_a_body_over_the_cap_is_refused_before_it_is_sent(gateway: GatewayProcess) -> None:
    with gateway.connect(timeout_s=2) as wire:
        wire.request("POST", PATH, [("Content-Length", str(CAP + 1))])
        expect.error(wire.reply(), 413, "request_too_large")


def test_an_absurd_length_is_refused(gateway: GatewayProcess) -> None:
    with gateway.connect(timeout_s=2) as wire:
        wire.request("POST", PATH, [("Content-Length", "9" * 30)])
        assert wire.reply().status in (400, 413)


def test_a_client_that_asks_first_is_told_before_it_sends(gateway: GatewayProcess) -> None:
    with gateway.connect(timeout_s=2) as wire:
        expectation = ("Expect", "100-continue")
        wire.request("POST", PATH, [("Content-Length", str(CAP + 1)), expectation])
        assert wire.head(interim=True).status == 413


def test_chunks_over_the_cap_are_refused(gateway: GatewayProcess) -> None:
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    with gateway.connect(timeout_s=4) as wire:
        wire.request("POST", PATH, [("Transfer-Encoding", "chunked")])
        wire.send(*[chunk] * 11)
        expect.error(wire.reply(), 413, "request_too_large")


def test_a_client_that_only_sends_sees_why_it_was_refused(gateway: GatewayProcess) -> None:
    """The rest of the upload is read and discarded, for 2 s at most, so that no RST hides the
    answer; then the connection is closed."""
    size = 30_000_000
    with gateway.connect() as wire:
        wire.request("POST", PATH, [("Content-Length", str(size))])
        began = time.monotonic()
        wire.send(*[b" " * 100_000] * 100)
        expect.error(wire.reply(), 413, "request_too_large")
        wire.rest(4)
        assert time.monotonic() - began < 4


def test_a_client_that_goes_on_sending_is_closed_after_two_seconds(
    gateway: GatewayProcess,
) -> None:
    with gateway.connect() as wire:
        wire.request("POST", PATH, [("Content-Length", "1000000000")])
        expect.error(wire.reply(), 413, "request_too_large")
        began = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            wire.send(*[b" " * 1000] * 300, gap_s=0.02)
        assert 1 < time.monotonic() - began < 4


def test_no_backend_is_told_with_a_hint_and_the_reasons(gateway: GatewayProcess) -> None:
    reply = gateway.chat("down")
    error = expect.error(reply, 503, "no_available_backend")
    assert int(reply.get("Retry-After") or "") >= 1
    assert [reason["reason"] for reason in error["details"]] == ["connection_refused"]


@pytest.mark.parametrize("request_id", ["abc", "A.b-c_1", "x" * 64])
def test_a_proper_request_id_comes_back(gateway: GatewayProcess, request_id: str) -> None:
    for path in ("/health", "/nowhere"):
        reply = gateway.get(path, [("X-Request-ID", request_id)])
        assert reply.get("X-Request-ID") == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", "a/b", "\xe4", "<a>", "a,b"])
def test_any_other_request_id_is_replaced(gateway: GatewayProcess, request_id: str) -> None:
    given = gateway.get("/health", [("X-Request-ID", request_id)]).get("X-Request-ID")
    assert given != request_id
    assert expect.REQUEST_ID.fullmatch(given or "")


def test_request_ids_differ(gateway: GatewayProcess) -> None:
    assert len({gateway.get("/health").get("X-Request-ID") for _ in range(5)}) == 5


def test_another_header_may_carry_the_request_id(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = {"gateway": {"request_id_header": "X-Correlation-ID"}}
    with GatewayProcess(config, tmp_path_factory.mktemp("ids")) as gateway:
        reply = gateway.get("/health", [("X-Correlation-ID", "mine")])
        assert reply.get("X-Correlation-ID") == "mine"


def test_the_connection_stays_usable_after_an_error(gateway: GatewayProcess, solo: Solo) -> None:
    with gateway.connect() as wire:
        for body, status in (
            (b"{", 400),
            (chat_body("unknown"), 404),
            (chat_body(solo.alias), 200),
        ):
            wire.send(request_bytes("POST", PATH, body=body))
            assert wire.reply().status == status


def test_health_says_that_the_process_lives(gateway: GatewayProcess) -> None:
    reply = gateway.get("/health")
    assert (reply.status, reply.json()) == (200, {"status": "ok"})
    assert gateway.call("HEAD", "/health").status == 200
