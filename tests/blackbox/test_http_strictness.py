"""Requests that are not HTTP/1.1 as it should be, said byte by byte; and odd ones that are."""

from __future__ import annotations

import contextlib

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Solo
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import request_bytes
from tests.script import Gate, Head, LastChunk, Pass

PATH = "/v1/chat/completions"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
MARK = b"MARKER"

BAD_REQUESTS = {
    "two hosts": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: MARKER\r\n\r\n",
    "the same host twice": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\nX-A: MARKER\r\n\r\n",
    "HTTP/2.0": b"GET /health HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/0.9 with a version": b"GET /health HTTP/0.9\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET /health HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/11": b"GET /health HTTP/11\r\nHost: a\r\n\r\n",
    "http/1.1": b"GET /health http/1.1\r\nHost: a\r\n\r\n",
    "another protocol": b"GET /health ICY/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /health\r\nHost: a\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "garbage": b"MARKER \x00\x01\x02 garbage\r\n\r\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03MARKER\r\n\r\n",
    "a control character in the target": b"GET /hea\x01lth HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET /hea lth HTTP/1.1\r\nHost: a\r\n\r\n",
    "an odd method": b"G@T /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space before the colon": b"GET /health HTTP/1.1\r\nHost: a\r\nX-A : MARKER\r\n\r\n",
    "a folded header": b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: b\r\n MARKER\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost: a\r\nMARKER\r\n\r\n",
    "a header without a name": b"GET /health HTTP/1.1\r\nHost: a\r\n: MARKER\r\n\r\n",
    "NUL in a header": b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: MARKER\x00\r\n\r\n",
    "CR in a header": b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: b\rMARKER\r\n\r\n",
    "an odd header name": b"GET /health HTTP/1.1\r\nHost: a\r\nX(A): MARKER\r\n\r\n",
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "two lengths in one": POST + b"Content-Length: 2, 3\r\n\r\n{}x",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length that is none": POST + b"Content-Length: MARKER\r\n\r\n{}",
    "an empty length": POST + b"Content-Length:\r\n\r\n{}",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, then gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a vertical tab before chunked": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nMARKER\r\n{}\r\n",
    "a negative chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk size in 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused_in_the_usual_shape_and_closed(
    gateway: GatewayProcess, sent: bytes
) -> None:
    with gateway.connect(timeout_s=4) as wire:
        wire.send(sent)
        expect.error(wire.reply(), 400, "bad_request", echo=MARK)
        assert wire.rest() == b""


def test_chunks_in_http_1_0_are_refused(gateway: GatewayProcess) -> None:
    with gateway.connect(timeout_s=4) as wire:
        wire.send(
            b"POST /v1/chat/completions HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\n{}\r\n0\r\n\r\n"
        )
        assert wire.reply().status == 400


BIG = {
    "one long value": b"X-A: " + b"a" * 70_000 + b"\r\n",
    "one long name": b"a" * 70_000 + b": b\r\n",
    "many headers": b"".join(b"X-%d: b\r\n" % n for n in range(10_000)),
    "no end at all": b"X-A: " + b"a" * 300_000,
}


@pytest.mark.parametrize("headers", BIG.values(), ids=BIG)
def test_headers_without_measure_are_refused(gateway: GatewayProcess, headers: bytes) -> None:
    with gateway.connect(timeout_s=4) as wire:
        wire.send(b"GET /health HTTP/1.1\r\nHost: a\r\n")
        with contextlib.suppress(ConnectionError):  # the answer is there already
            wire.send(headers + b"\r\n")
        expect.error(wire.reply(), 431, "headers_too_large")


def test_a_target_without_measure_is_refused(gateway: GatewayProcess) -> None:
    with gateway.connect(timeout_s=4) as wire:
        wire.send(request_bytes("GET", "/" + "a" * 70_000))
        expect.error(wire.reply(), 431, "headers_too_large")


def test_headers_of_an_ordinary_size_are_taken(gateway: GatewayProcess) -> None:
    headers = [(f"X-{n}", "v" * 100) for n in range(30)]
    assert gateway.get("/health", [*headers, ("X-Long", "v" * 4000)]).status == 200


def test_the_gateway_lives_on_after_all_that(gateway: GatewayProcess) -> None:
    assert gateway.get("/health").status == 200


# Odd, but proper


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost:a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost:   a   \r\nX-Empty:\r\n\r\n",
        b"GET /health?query=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: \xe4\xf6\xfc\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_an_odd_request_is_answered(gateway: GatewayProcess, sent: bytes) -> None:
    with gateway.connect(timeout_s=4) as wire:
        wire.send(sent)
        assert wire.reply().json() == {"status": "ok"}


def test_a_request_may_arrive_byte_by_byte(gateway: GatewayProcess, solo: Solo) -> None:
    sent = request_bytes("POST", PATH, body=chat_body(solo.alias))
    with gateway.connect() as wire:
        wire.send(*[sent[n : n + 1] for n in range(len(sent))], gap_s=0.0005)
        assert wire.reply().status == 200
    assert solo.backend.next().json()["messages"]


def test_a_request_may_come_in_chunks(gateway: GatewayProcess, solo: Solo) -> None:
    body = chat_body(solo.alias)
    chunks = [b"1;ext=1\r\n%b\r\n" % body[n : n + 1] for n in range(len(body))]
    with gateway.connect() as wire:
        wire.request("POST", PATH, [("Transfer-Encoding", "chunked")])
        wire.send(b"".join(chunks), b"0\r\nTrailer: x\r\n\r\n")
        assert wire.reply().status == 200
        wire.request("GET", "/health")
        assert wire.reply().status == 200
    received = solo.backend.next()
    assert received.get("Content-Length") == str(len(received.body))
    assert received.get("Transfer-Encoding") is None


def test_pipelined_requests_are_answered_in_their_order(
    gateway: GatewayProcess, solo: Solo
) -> None:
    with gateway.connect() as wire:
        wire.send(
            request_bytes("GET", "/health", [("X-Request-ID", "one")])
            + request_bytes("POST", PATH, [("X-Request-ID", "two")], chat_body(solo.alias))
            + request_bytes("GET", "/nowhere", [("X-Request-ID", "three")])
            + request_bytes("POST", PATH, [("X-Request-ID", "four")], chat_body(solo.alias))
        )
        replies = [wire.reply() for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 404, 200]
    ids = [reply.get("X-Request-ID") for reply in replies]
    assert ids == ["one", "two", "three", "four"]


def test_a_request_behind_a_stream_waits_for_its_end(gateway: GatewayProcess, solo: Solo) -> None:
    gate = Gate()
    solo.backend.script(Head(), Pass(gate), LastChunk())
    with gateway.connect() as wire:
        wire.send(
            request_bytes("POST", "/v1/responses", body=chat_body(solo.alias, stream=True))
            + request_bytes("GET", "/health")
        )
        solo.backend.next()
        assert wire.silent_for(0.1)
        gate.open()
        wire.reply()
        assert wire.reply().json() == {"status": "ok"}


def test_endless_pipelining_is_bounded(gateway: GatewayProcess, solo: Solo) -> None:
    """Behind a request that takes its time, a client may pile up a little, and no more."""
    gate = Gate()
    solo.backend.script(Pass(gate), Head(), LastChunk())
    before = gateway.resident_bytes()
    with gateway.connect(timeout_s=2) as wire:
        wire.send(request_bytes("POST", "/v1/responses", body=chat_body(solo.alias, stream=True)))
        solo.backend.next()
        piece = request_bytes("GET", "/health") * 1000
        with contextlib.suppress(ConnectionError, TimeoutError):
            wire.send(*[piece] * 800)  # 30 MB
        assert gateway.resident_bytes() - before < 8_000_000
    gate.open()


def test_a_client_that_asks_first_is_told_to_go_on(gateway: GatewayProcess, solo: Solo) -> None:
    body = chat_body(solo.alias)
    with gateway.connect() as wire:
        length = ("Content-Length", str(len(body)))
        wire.request("POST", PATH, [length, ("Expect", "100-continue")])
        assert wire.head(interim=True).status == 100
        wire.send(body)
        assert wire.reply().status == 200


def test_an_unknown_expectation_is_no_disaster(gateway: GatewayProcess, solo: Solo) -> None:
    reply = gateway.chat(solo.alias, [("Expect", "a-miracle")])
    assert reply.status in (200, 400, 417)


def test_close_is_honoured(gateway: GatewayProcess, solo: Solo) -> None:
    body = chat_body(solo.alias)
    with gateway.connect() as wire:
        wire.send(request_bytes("POST", PATH, [("Connection", "close")], body))
        assert (wire.reply().get("Connection") or "").lower() == "close"
        assert wire.rest(2) == b""


def test_http_1_0_is_answered_without_chunks(gateway: GatewayProcess, solo: Solo) -> None:
    body = chat_body(solo.alias, stream=True)
    with gateway.connect() as wire:
        wire.send(
            b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        reply = wire.reply()
        assert reply.get("Transfer-Encoding") is None
        expect.whole_stream(reply.body)


def test_a_wish_for_another_protocol_is_not_heard(gateway: GatewayProcess) -> None:
    for wish in ("websocket", "h2c"):
        headers = [("Connection", "Upgrade"), ("Upgrade", wish)]
        assert gateway.get("/health", headers).status == 200


def test_a_tunnel_is_not_made(gateway: GatewayProcess) -> None:
    with gateway.connect() as wire:
        wire.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert wire.reply().status in (400, 404, 405)
