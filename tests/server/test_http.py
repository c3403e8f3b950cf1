"""Requests through both lanes: ids, answers, errors in one shape, ends of all kinds."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
from collections.abc import AsyncIterator

import pytest

from rolemesh.errors import (
    InvalidApiKey,
    NoAvailableBackend,
    RoleMeshError,
    ShuttingDown,
    UpstreamError,
)
from rolemesh.server.connection import MAX_AHEAD_BYTES, ClientConnection
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.router import Handler
from rolemesh.wire.sse import EventSplitter
from tests.server.front import LANE, Front, Reply, listening

FULL = "/v1/embeddings"  # aiohttp's
BOTH = pytest.mark.parametrize("path", [LANE, FULL], ids=["fast lane", "full parser"])
MESSAGES = "/v1/messages"


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with listening() as front:
        for path in (LANE, FULL, MESSAGES):
            front.on("POST", path, echo)
        front.on("GET", "/", hello)
        yield front


async def hello(inbound: Inbound) -> Answer:
    return Answer.json({"hello": "there"})


async def echo(inbound: Inbound) -> Answer:
    return Answer(body=await inbound.request.body(1000))


async def refuse(inbound: Inbound) -> Answer:
    raise InvalidApiKey("No key.")


def raising(error: BaseException) -> Handler:
    async def handler(inbound: Inbound) -> Answer:
        raise error

    return handler


async def asked(front: Front, path: str, fields: str = "", body: bytes = b"{}") -> Reply:
    async with front.client() as client:
        client.ask("POST", path, body, fields)
        return await client.reply()


# Ids and answers


@BOTH
async def test_an_answer_has_its_head_and_its_line(front: Front, path: str) -> None:
    reply = await asked(front, path, body=b'{"a": 1}')
    assert (reply.status, reply.body) == (200, b'{"a": 1}')
    assert set(reply.headers) == {"date", "content-type", "x-request-id", "content-length"}
    assert reply.headers["content-type"] == "application/json"
    (inbound,) = front.ended
    line = inbound.line
    assert (line.status, line.outcome, line.bytes_out) == (200, "ok", 8)
    assert (line.method, line.path, line.peer) == ("POST", path, "127.0.0.1")
    assert line.request_id == reply.headers["x-request-id"]
    assert 0 <= line.duration_s < 5


@BOTH
@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("abc.DEF_1-2", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("a,b", False),
        ("", False),
    ],
)
async def test_a_clients_own_id_is_used_where_it_is_plain(
    front: Front, path: str, given: str, used: bool
) -> None:
    reply = await asked(front, path, f"X-Request-ID: {given}\r\n")
    assert (reply.headers["x-request-id"] == given) is used


async def test_ids_of_ours_differ_and_the_headers_name_may_change(front: Front) -> None:
    replies = [await asked(front, path) for path in (LANE, FULL, LANE)]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 3
    front.server.request_id_header = "X-Trace"
    reply = await asked(front, LANE, "X-Trace: mine\r\nX-Request-ID: not-mine\r\n")
    assert reply.headers["x-trace"] == "mine"
    assert "x-request-id" not in reply.headers


@BOTH
async def test_requests_come_one_behind_the_other_on_a_connection(front: Front, path: str) -> None:
    async with front.client() as client:
        for number in range(3):
            client.ask("POST", path, b"%d" % number)
            assert (await client.reply()).body == b"%d" % number
        # All at once: the answers keep the order.
        for number in range(3):
            client.ask("POST", path, b"%d" % number)
        assert [(await client.reply()).body for _ in range(3)] == [b"0", b"1", b"2"]
        client.ask("GET", "/")  # from the one lane into the other
        assert json.loads((await client.reply()).body) == {"hello": "there"}
        client.ask("POST", path, b"last", "Connection: close\r\n")
        assert (await client.reply()).headers["connection"] == "close"
        assert await client.rest() == b""
    assert len(front.ended) == 8


# What is sent ahead


@BOTH
async def test_many_small_requests_may_be_sent_ahead(front: Front, path: str) -> None:
    async with front.client() as client:
        for number in range(200):
            client.ask("POST", path, b"%d" % number)
        assert [(await client.reply()).body for _ in range(200)] == [b"%d" % n for n in range(200)]


@BOTH
async def test_a_request_is_answered_whatever_comes_behind_it(front: Front, path: str) -> None:
    async with front.client() as client:
        client.ask("POST", path, b"")
        client.send(b"no request\r\n\r\nnor this\r\n\r\n")
        assert (await client.reply()).status == 200
        assert (await client.reply()).status == 400
        assert await client.rest() == b""


@BOTH
async def test_only_so_much_may_be_sent_ahead(front: Front, path: str) -> None:
    """Be it together with the request that is served, or behind it."""
    held = Held()
    front.on("POST", path, held)
    for pause_s in (0.0, 0.05):
        for more in (0, 1):
            async with front.client() as client:
                client.ask("POST", path, b"")
                await asyncio.sleep(pause_s)
                client.send(b"x" * (MAX_AHEAD_BYTES + more))
                await asyncio.sleep(0.05)
                held.go.set()
                statuses = re.findall(rb"HTTP/1.1 (\d+)", await client.rest())
            assert statuses == ([] if more else [b"200", b"400"])
            held.go.clear()


# Old clients, and those that want no body


async def test_head_is_answered_as_get_without_the_body(front: Front) -> None:
    async with front.client() as client:
        client.ask("HEAD", "/")
        reply = await client.reply(head_only=True)
        assert reply.headers["content-length"] == str(len('{"hello":"there"}'))
        client.ask("GET", "/")
        assert (await client.reply()).body == b'{"hello":"there"}'


async def test_an_old_client_is_answered_without_chunks_and_let_go(front: Front) -> None:
    async def streamed(inbound: Inbound) -> None:
        inbound.downstream.start(200, b"", None)
        inbound.downstream.write(b"all")
        inbound.downstream.end()

    front.on("GET", "/stream", streamed)
    async with front.client() as client:
        client.send(b"GET /stream HTTP/1.0\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert b"Transfer-Encoding" not in head
        assert body == b"all"


# Errors


@BOTH
@pytest.mark.parametrize(
    ("error", "status", "inner", "headers"),
    [
        (
            InvalidApiKey("No key."),
            401,
            {"type": "authentication_error", "code": "invalid_api_key", "param": None},
            {"www-authenticate": "Bearer"},
        ),
        (
            NoAvailableBackend("None.", retry_after_s=0.2, details=[{"backend": "gpu"}]),
            503,
            {"code": "no_available_backend", "details": [{"backend": "gpu"}]},
            {"retry-after": "1"},
        ),
        (UpstreamError("Broken."), 502, {"type": "upstream_error"}, {}),
    ],
)
async def test_an_error_is_answered_in_the_one_shape(
    front: Front,
    path: str,
    error: RoleMeshError,
    status: int,
    inner: dict[str, object],
    headers: dict[str, str],
) -> None:
    front.on("POST", path, raising(error))
    reply = await asked(front, path)
    assert reply.status == status
    assert {**reply.error, **inner} == reply.error
    assert reply.error["message"] == error.message
    assert reply.headers["x-rolemesh-error"] == "gateway"
    assert headers.items() <= reply.headers.items()
    assert front.ended[0].line.code == error.code


async def test_on_anthropics_paths_an_error_says_that_it_is_one(front: Front) -> None:
    front.on("POST", MESSAGES, raising(UpstreamError("Broken.")))
    reply = await asked(front, MESSAGES)
    assert json.loads(reply.body)["type"] == "error"


@BOTH
async def test_a_fault_of_ours_is_logged_and_not_shown(
    front: Front, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    front.on("POST", path, raising(ZeroDivisionError("s3cret detail")))
    with caplog.at_level(logging.ERROR, "rolemesh.http"):
        reply = await asked(front, path)
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert b"s3cret" not in reply.body
    assert "s3cret detail" in caplog.text


async def test_what_is_not_routed_is_404_and_405(front: Front) -> None:
    async with front.client() as client:
        client.ask("GET", "/nothing")
        assert (await client.reply()).error["code"] == "not_found"
        client.ask("DELETE", LANE)
        reply = await client.reply()
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400),
        (b"s3cret garbage\r\n\r\n", 400),
        (
            (
                b"POST /v1/embeddings HTTP/1.0\r\nConnection: keep-alive\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"s3cret" * 2000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: s3cret\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"s3cret" * 20_000, 431),
    ],
)
async def test_a_bad_head_is_refused_in_our_shape_and_ends_the_connection(
    front: Front, request_: bytes, status: int
) -> None:
    async with front.client() as client:
        client.send(request_)
        reply = await client.reply()
        assert reply.status == status
        assert reply.error["type"] == "invalid_request_error"
        assert reply.headers["x-rolemesh-error"] == "gateway"
        assert "x-request-id" in reply.headers
        assert b"s3cret" not in reply.body
        assert reply.headers["connection"] == "close"
        assert await client.rest() == b""
    assert [inbound.line.outcome for inbound in front.ended] == ["rejected"]


# Bodies


@BOTH
async def test_a_body_too_large_is_refused_before_it_is_read(front: Front, path: str) -> None:
    async with front.client() as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n".encode())
        reply = await client.reply()
        assert (reply.status, reply.error["code"]) == (413, "request_too_large")
        client.send(b"x" * 1001)
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("chunks", "status", "body"),
    [
        (b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n", 200, b"abcde"),
        (b"0\r\n\r\n", 200, b""),
        (b"3e9\r\n" + b"x" * 1001, 413, None),
        (b"zz\r\n", 400, None),
        (b"1\r\nxx\r\n", 400, None),
    ],
)
async def test_a_body_in_chunks(
    front: Front, chunks: bytes, status: int, body: bytes | None
) -> None:
    async with front.client() as client:
        client.ask("POST", LANE, fields="Transfer-Encoding: chunked\r\n")
        client.send(chunks)
        reply = await client.reply()
        assert reply.status == status
        assert body is None or reply.body == body


async def test_fields_behind_a_body_are_not_those_of_the_next_request(front: Front) -> None:
    async with front.client() as client:
        client.ask("POST", LANE, fields="Transfer-Encoding: chunked\r\n")
        client.send(b"0\r\nX-Request-ID: mine\r\n\r\n")
        client.ask("GET", "/")
        assert [(await client.reply()).status for _ in range(2)] == [200, 200]
    assert "mine" not in [inbound.request_id for inbound in front.ended]


def connections() -> set[int]:
    return {id(each) for each in gc.get_objects() if isinstance(each, ClientConnection)}


@pytest.mark.parametrize("broken", [b"zz\r\n", b"1\r\nabzz\r\n", b"1\r\na\r\n0\r\nzz\r\n"])
@pytest.mark.parametrize("refused", [False, True], ids=["read", "refused"])
async def test_a_body_whose_framing_breaks_is_let_go_in_silence(
    front: Front, caplog: pytest.LogCaptureFixture, broken: bytes, refused: bool
) -> None:
    """Without waiting for the collector of cycles: what has come of it may be large."""
    if refused:
        front.on("POST", FULL, refuse)
    before = connections()
    gc.disable()
    try:
        async with front.client() as client:
            client.ask("POST", FULL, fields="Transfer-Encoding: chunked\r\n")
            client.send(b"3\r\nabc\r\n")
            if refused:
                assert (await client.reply()).status == 401
            client.send(broken)
            if not refused:
                assert (await client.reply()).status == 400
            assert await client.rest() == b""
        await asyncio.sleep(0.01)
        front.ended.clear()
        assert connections() == before
    finally:
        gc.enable()
    assert not caplog.records


@BOTH
async def test_a_body_that_comes_in_pieces_is_put_together(front: Front, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n".encode()
    async with front.client() as client:
        for piece in (head[:20], head[20:-1], head[-1:] + b"a", b"bc", b"defPOS"):
            client.send(piece)
            await asyncio.sleep(0.01)
        assert (await client.reply()).body == b"abcdef"
        client.send(head[3:] + b"ghijkl")
        assert (await client.reply()).body == b"ghijkl"


async def test_a_body_that_waits_to_be_asked_for_is_asked_for_when_it_is_welcome(
    front: Front,
) -> None:
    front.on("POST", FULL, raising(InvalidApiKey("No key.")))
    expecting = "Expect: 100-continue\r\nContent-Length: 2\r\n"
    async with front.client() as client:
        client.ask("POST", LANE, fields=expecting)
        assert (await client.head())[0] == 100
        client.send(b"ok")
        assert (await client.reply()).body == b"ok"
        client.ask("POST", FULL, fields=expecting)
        assert (await client.reply()).status == 401


# Answers that break off


def streaming(error: RoleMeshError, *, events: bool) -> Handler:
    async def handler(inbound: Inbound) -> None:
        if events:
            inbound.splitter = EventSplitter()
        inbound.downstream.start(200, b"A: b\r\n", None)
        inbound.downstream.write(b"data: 1\n\n")
        raise error

    return handler


@BOTH
async def test_a_stream_that_breaks_off_ends_with_an_error_event(front: Front, path: str) -> None:
    front.on("POST", path, streaming(UpstreamError("Broken."), events=True))
    async with front.client() as client:
        client.ask("POST", path, b"")
        body = (await client.reply()).body
        first, last, nothing = body.split(b"\n\n")
        assert (first, nothing) == (b"data: 1", b"")
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
        client.ask("POST", path, b"")  # the framing is whole: the connection goes on
        assert (await client.head())[0] == 200
    assert front.ended[0].line.outcome == "truncated"
    assert front.ended[0].line.code == "upstream_error"


@BOTH
async def test_any_other_answer_that_breaks_off_is_cut(front: Front, path: str) -> None:
    front.on("POST", path, streaming(UpstreamError("Broken."), events=False))
    async with front.client() as client:
        client.ask("POST", path, b"")
        await client.head()
        with pytest.raises(asyncio.IncompleteReadError):
            await client.chunks()
    assert front.ended[0].line.outcome == "truncated"


# Clients that leave


class Held:
    """A handler that waits, and tells when it does and when it was cancelled."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, inbound: Inbound) -> Answer:
        await inbound.request.body(1000)
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Answer(body=b"done")


@BOTH
async def test_a_client_that_has_said_all_it_has_to_say_gets_what_is_ready(
    front: Front, path: str
) -> None:
    """`nc -N` and its like."""
    async with front.client() as client:
        client.ask("POST", path, b"all")
        client.writer.write_eof()
        assert (await client.reply()).body == b"all"
        assert await client.rest() == b""


@BOTH
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_cancels_its_request(front: Front, path: str, how: str) -> None:
    held = Held()
    front.on("POST", path, held)
    async with front.client() as client:
        client.ask("POST", path, b"{}")
        await held.entered.wait()
        client.leave() if how == "reset" else client.writer.close()
        await held.cancelled.wait()
    await asyncio.sleep(0)
    (inbound,) = front.ended
    assert (inbound.line.outcome, inbound.line.status) == ("client_abort", 499)
    assert front.server.in_flight == 0


# Back-pressure


class Flowing:
    def __init__(self) -> None:
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()
        self.straight_bytes = self.straight_body = 0

    def pause(self) -> None:
        self.paused.set()

    def resume(self) -> None:
        if self.paused.is_set():
            self.resumed.set()


@BOTH
async def test_a_relay_is_told_when_its_client_is_full_and_when_it_reads(
    front: Front, path: str
) -> None:
    flow, reading, piece = Flowing(), asyncio.Event(), b"x" * 65_536

    async def handler(inbound: Inbound) -> None:
        inbound.downstream.start(200, b"", None)
        inbound.downstream.connect(flow)
        while not flow.paused.is_set():  # the sockets' own buffers take a few MiB
            inbound.downstream.write(piece)
        reading.set()
        await flow.resumed.wait()
        inbound.downstream.end()

    front.on("POST", path, handler)
    async with front.client() as client:
        client.ask("POST", path, b"")
        await reading.wait()
        assert len((await client.reply()).body) == front.ended[0].line.bytes_out
        assert flow.resumed.is_set()


# The end of the server


@BOTH
async def test_draining_waits_for_requests_and_takes_no_new_ones(front: Front, path: str) -> None:
    held = Held()
    front.on("POST", path, held)
    async with front.client() as idle, front.client() as busy, front.client() as late:
        for client in (idle, late):
            client.ask("GET", "/")
            await client.reply()
        busy.ask("POST", path, b"{}")
        await held.entered.wait()
        draining = asyncio.create_task(front.server.drain())
        assert await idle.rest() == b""
        assert not draining.done()
        held.go.set()
        reply = await busy.reply()
        assert (reply.body, reply.headers.get("connection")) == (b"done", None)
        assert await busy.rest() == b""
        await draining
        assert front.server.in_flight == 0


async def test_while_draining_the_state_may_be_asked_for_and_work_is_refused(front: Front) -> None:
    front.server.draining = True
    for path in (LANE, FULL):
        reply = await asked(front, path)
        assert (reply.status, reply.error["code"]) == (503, "shutting_down")
        assert "retry-after" in reply.headers
        assert reply.headers["connection"] == "close"
    async with front.client() as client:
        client.ask("GET", "/")
        assert (await client.reply()).status == 200


@BOTH
async def test_requests_that_are_left_in_the_end_are_told_why(front: Front, path: str) -> None:
    waiting, streaming_one = Held(), asyncio.Event()

    async def stream(inbound: Inbound) -> None:
        inbound.splitter = EventSplitter()
        inbound.downstream.start(200, b"", None)
        inbound.downstream.write(b"data: 1\n\n")
        streaming_one.set()
        await asyncio.Event().wait()

    front.on("POST", path, waiting)
    front.on("POST", MESSAGES, stream)
    async with front.client() as first, front.client() as second:
        first.ask("POST", path, b"{}")
        second.ask("POST", MESSAGES, b"{}")
        await waiting.entered.wait()
        await streaming_one.wait()
        await front.server.end_requests(ShuttingDown("The gateway is shutting down."))
        reply = await first.reply()
        assert (reply.status, reply.error["code"]) == (503, "shutting_down")
        body = (await second.reply()).body
        assert body.startswith(b"data: 1\n\nevent: error\ndata: ")
        assert b"shutting_down" in body
    assert [inbound.line.code for inbound in front.ended] == ["shutting_down"] * 2


async def test_closing_lets_clients_take_what_is_written(front: Front) -> None:
    async with front.client() as idle, front.client() as client:
        client.ask("GET", "/")
        assert (await client.reply()).status == 200
        assert front.server.open_connections >= 1
        await front.server.close()
        assert await client.rest() == b""
        assert await idle.rest() == b""


async def test_without_the_fast_lane_everything_is_the_full_parsers(front: Front) -> None:
    front.server.fast_lane = False
    assert (await asked(front, LANE)).status == 200
    assert len(front.server.connections) <= 1
