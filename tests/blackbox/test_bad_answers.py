"""Answers of backends that are not HTTP/1.1 as it should be, and what the client gets for them."""

from __future__ import annotations

import gzip

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Pair, Solo
from tests.gateway_process import GatewayProcess, eventually
from tests.script import Answer, Head, Send, Slowly, Stall, completion

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
MARK = "MARKER"

BAD = {
    "garbage": b"MARKER nonsense\r\n\r\n",
    "nothing but line ends": b"\r\n" * 50_000,
    "binary": bytes(range(256)),
    "another protocol": b"ICY 200 OK\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no status": b"HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of 099": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of words": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\n{}",
    "a folded header": OK + b"X-A: b\r\n MARKER\r\nContent-Length: 2\r\n\r\n{}",
    "a space before the colon": OK + b"X-A : MARKER\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a colon": OK + b"MARKER\r\nContent-Length: 2\r\n\r\n{}",
    "NUL in a header": OK + b"X-A: MARKER\x00\r\nContent-Length: 2\r\n\r\n{}",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "two lengths in one": OK + b"Content-Length: 2, 3\r\n\r\n{}x",
    "a signed length": OK + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": OK + b"Content-Length: -2\r\n\r\n{}",
    "a length that is none": OK + b"Content-Length: two\r\n\r\n{}",
    "an absurd length": OK + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "identity alone": OK + b"Transfer-Encoding: identity\r\n\r\n{}",
    "gzip": OK + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked in two headers": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a chunk size that is none": CHUNKED + b"MARKER\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "an absurd chunk size": CHUNKED + b"f" * 20 + b"\r\n{}\r\n",
    "a huge head": OK + b"X-A: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "a head of many lines": OK + b"X-A: b\r\n" * 20_000 + b"\r\n",
    "a huge reason": b"HTTP/1.1 200 " + b"a" * 1_000_000 + b"\r\n\r\n",
    "101, unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "101 with a connection header": (
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nMARKER"
    ),
    "endless interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 500 + OK + b"\r\n",
    "two answers at once, the first interim 101": (
        b"HTTP/1.1 101 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    ),
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
def test_a_bad_answer_is_an_upstream_error_and_closes_the_connection(
    gateway: GatewayProcess, solo: Solo, sent: bytes
) -> None:
    solo.backend.script(Send(sent), Stall())
    expect.error(gateway.chat(solo.alias), 502, "upstream_error", echo=MARK)
    assert solo.backend.next().closed_within(1)
    assert gateway.chat(solo.alias).json() == completion()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("last", [True, False])
def test_a_redirect_is_neither_followed_nor_handed_on(
    gateway: GatewayProcess, pair: Pair, status: int, last: bool
) -> None:
    if last:
        pair.first.script(Answer.error(503))
    elsewhere = [("Location", f"{pair.second.url}/elsewhere"), ("Set-Cookie", "a=b")]
    redirecting = pair.second if last else pair.first
    redirecting.script(Answer.data(b"MARKER", status, headers=elsewhere))
    reply = gateway.chat(pair.alias)
    if last or reply.status != 200:
        expect.error(reply, 502, "upstream_error", echo=MARK)
    assert reply.get("Location") is None
    for backend in (pair.first, pair.second):
        assert all("elsewhere" not in received.target for received in backend.received)


def test_a_few_interim_answers_are_skipped(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(
        Send(b"HTTP/1.1 100 Continue\r\n\r\n"),
        Send(b"HTTP/1.1 102 Processing\r\nX-Interim: 1\r\n\r\n"),
        Send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        Answer.json(completion()),
    )
    with gateway.connect() as wire:
        wire.request("POST", "/v1/chat/completions", body=b'{"model":"%b"}' % solo.alias.encode())
        assert wire.head(interim=True).status == 200
    reply_of_the_next = gateway.chat(solo.alias)
    assert reply_of_the_next.get("X-Interim") is None
    assert reply_of_the_next.get("Link") is None


EXTRA = {
    "two answers at once": Answer.json(completion("poison")).data,
    "extra bytes": b"extra",
    "a line end": b"\r\n",
    "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
@pytest.mark.parametrize("together", [True, False])
def test_what_comes_behind_an_answer_never_reaches_another_request(
    gateway: GatewayProcess, solo: Solo, extra: bytes, together: bool
) -> None:
    answer = Answer.json(completion("mine")).data
    steps = [Send(answer + extra)] if together else [Send(answer), Stall(0.1), Send(extra)]
    solo.backend.script(*steps)
    first = gateway.chat(solo.alias)
    assert first.status == 502 or first.json() == completion("mine")
    if extra != b"\r\n":
        assert solo.backend.next().closed_within(2)
    solo.backend.otherwise(Answer.json(completion("the next")))
    assert gateway.chat(solo.alias).json() == completion("the next")


def test_what_comes_on_an_idle_connection_closes_it(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(
        Answer.json(completion()), Stall(0.2), Answer.json(completion("poison")), Stall()
    )
    gateway.chat(solo.alias)
    assert solo.backend.next().closed_within(2)
    assert gateway.chat(solo.alias).json() == completion()


def test_an_answer_may_arrive_byte_by_byte(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Slowly(Answer.json(completion()).data, 1, 0.0003))
    assert gateway.chat(solo.alias).json() == completion()


def test_an_answer_of_http_1_0_passes(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Stall())
    assert gateway.chat(solo.alias).body == b"{}"
    assert solo.backend.next().closed_within(1)


def test_what_is_compressed_stays_compressed(gateway: GatewayProcess, solo: Solo) -> None:
    packed = gzip.compress(b'{"a": 1}')
    solo.backend.script(Answer.data(packed, headers=[("Content-Encoding", "gzip")]))
    reply = gateway.chat(solo.alias)
    assert (reply.body, reply.get("Content-Encoding")) == (packed, "gzip")


def test_a_broken_compression_is_not_the_gateways_affair(
    gateway: GatewayProcess, solo: Solo
) -> None:
    solo.backend.script(Answer.data(b"no gzip", headers=[("Content-Encoding", "gzip")]))
    assert gateway.chat(solo.alias).body == b"no gzip"


def test_an_early_answer_is_passed_on_while_the_request_is_still_sent(
    gateway: GatewayProcess, solo: Solo
) -> None:
    """A backend may refuse a large request from its head alone, and close."""
    solo.backend.script(Answer.error(413, "too much for me"), Stall(0.3), early=True)
    reply = gateway.chat(solo.alias, x="x" * 20_000_000)
    assert (reply.status, reply.json()["error"]["message"]) == (413, "too much for me")
    received = solo.backend.next(whole=False)
    solo.backend.drop_connections()
    assert received.closed_within(2)
    assert gateway.chat(solo.alias).status == 200


def test_a_trailer_is_dropped(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(
        Head(content_type="application/json", headers=[("Trailer", "X-Sum")]),
        Send(b"2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n"),
    )
    reply = gateway.chat(solo.alias)
    assert reply.body == b"{}"
    assert reply.get("X-Sum") is None


def test_no_connection_is_left_open_after_all_that(gateway: GatewayProcess, solo: Solo) -> None:
    assert gateway.chat(solo.alias).status == 200
    eventually(lambda: gateway.metric("requests_in_flight") == 0)
