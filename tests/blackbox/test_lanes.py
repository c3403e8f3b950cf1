"""Both lanes answer alike: generated requests go to a gateway with the fast lane and one without.

Compared are the statuses, the names of the headers and the bodies of all answers on a connection,
up to its end. Each connection ends with a request that asks for that.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.rawhttp import RawClient, Truncated

Answered = tuple[int, frozenset[str], bytes]

KEY = "the-clients-key"
ASK = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings"]
ODD_LINES = [
    "post /v1/chat/completions HTTP/1.1",
    "POST /v1/chat/completions HTTP/1.0",
    "POST /v1/chat/completions HTTP/1.2",
    "POST  /v1/chat/completions HTTP/1.1",
    "POST /v1/chat/completions",
]
OTHER_LINES = [
    "POST /v1/chat/completions?a=b HTTP/1.1",
    "POST /v1/chat%2Fcompletions HTTP/1.1",
    "POST http://a/v1/chat/completions HTTP/1.1",
    "POST /v1/chat/completions/ HTTP/1.1",
    "PUT /v1/chat/completions HTTP/1.1",
    "GET /v1/models/nothing HTTP/1.1",
]
BODIES = [
    json.dumps({"model": "writer", "messages": []}).encode(),
    json.dumps({"messages": [], "stream": None}).encode(),
    json.dumps({"model": "writer", "stream": True}).encode(),
    json.dumps({"model": "nobody"}).encode(),
    b'{"model": 1}',
    b'{"model": "writer", "model": "writer"}',
    b'{"model": "\xff"}',
    b"[]",
    b"{",
    b"",
    b'{"model": "writer", "prompt": "' + b"x" * 9_000 + b'"}',
]
ODD_FIELDS = [
    "X-A : space before the colon",
    " folded: line",
    "no colon",
    "X-\u00fc: name",
    "X-A: a\x00b",
    "X-A: a\rb",
    "Connection: close",  # with something behind it
    "Connection: Keep-Alive, X-A",
    "Upgrade: h2c",
    "Content-Length: 3",
    "Host: another",
    "Transfer-Encoding: gzip, chunked",
    "X-Long: " + "l" * 9_000,
]
JUNK = [b"junk", b"\r\n", b"\r\n\r\n", b"\x00", b"{}", b"GET / HTTP/1.1\nHost: a\n\n", b"POST "]
SMALL = [
    ASK,
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Api-Key: %b\r\nContent-Length: 18\r\n\r\n%b"
    % (KEY.encode(), b'{"model":"writer"}'),
]
FIELDS = [
    "X-Request-ID: mine-1",
    "X-Request-ID: not mine",
    "Connection: keep-alive",
    "Content-Encoding: gzip",
    "Content-Encoding: identity",
    "Expect: 100-continue",
    "Via: 1.1 elsewhere",
    "X-A:   spaced\t ",
    "X-A:",
    "X-A: \u00fc",
    "X-A: 1\r\nX-B: 2\r\nX-C: 3",
    "Accept: */*",
    "traceparent: 00-1-2-03",
]


@st.composite
def requests(draw: st.DrawFn, *, odd: bool) -> tuple[bytes, bytes]:
    """A head, and a body."""
    line = f"POST {draw(st.sampled_from(PATHS))} HTTP/1.1"
    if draw(st.integers(0, 5)) == 0:
        line = draw(st.sampled_from(OTHER_LINES + ODD_LINES if odd else OTHER_LINES))
    body = draw(st.sampled_from(BODIES))
    fields = ["Content-Type: application/json"]
    extras = FIELDS + ODD_FIELDS if odd else FIELDS
    fields += draw(st.lists(st.sampled_from(extras), max_size=3))
    if not odd or draw(st.integers(0, 9)):
        fields.append("Host: a")
    if draw(st.integers(0, 9)):
        fields.append(f"Authorization: Bearer {draw(st.sampled_from([KEY, KEY, KEY, 'wrong']))}")
    if draw(st.integers(0, 9)):
        fields.append(f"Content-Length: {len(body)}")
    else:
        fields.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    recase = draw(st.sampled_from([str, str, str.lower, str.upper]))
    named = [field.partition(":") for field in draw(st.permutations(fields))]
    lines = [recase(name) + colon + value for name, colon, value in named]
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1"), body


@st.composite
def connections(draw: st.DrawFn) -> list[bytes]:
    """What is sent, in pieces. All together it stays below what may be sent ahead. No body is apart
    from its head: whether one was whole when its request was refused, so that the connection can be
    kept, is a matter of luck in either lane."""
    sent = draw(st.lists(requests(odd=False), min_size=1, max_size=3))
    for rare, others in (
        (4, st.sampled_from(SMALL).map(lambda small: (small * draw(st.integers(8, 40)), b""))),
        (2, st.sampled_from(JUNK).map(lambda junk: (junk, b""))),
        (2, requests(odd=True)),
    ):
        if draw(st.integers(1, rare)) == 1:
            sent.insert(draw(st.integers(0, len(sent))), draw(others))
    data, may_cut = b"", [0]
    for head, body in [*sent, (LAST, b"")]:
        may_cut += range(len(data), len(data) + len(head))
        data += head + body
    cuts = sorted({0, *draw(st.lists(st.sampled_from(may_cut), max_size=4))})
    return [data[start:end] for start, end in zip(cuts, [*cuts[1:], len(data)], strict=True)]


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GatewayProcess]]:
    """With the fast lane, and without."""
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(FakeBackend())
        yield [
            stack.enter_context(
                GatewayProcess(
                    {
                        "default_model": "writer",
                        "gateway": {"fast_lane": fast},
                        "auth": {"client_api_keys": [KEY]},
                        "models": {"writer": {"proxy_url": backend.url}},
                    },
                    tmp_path_factory.mktemp("lane"),
                )
            )
            for fast in (True, False)
        ]


def answers(gateway: GatewayProcess, pieces: Sequence[bytes]) -> list[Answered]:
    found: list[Answered] = []
    with gateway.connect() as wire, gateway.connect() as beside:
        for piece in pieces:
            try:
                wire.send(piece)
            except OSError:
                break  # it has closed already
            beside.send(ASK)  # when this is answered, the piece has been read
            beside.reply()
        with contextlib.suppress(Truncated):
            while True:
                found.append(answered(wire))
    return found


def answered(wire: RawClient) -> Answered:
    reply = wire.reply()
    names = frozenset(name.lower() for name, _ in reply.head.headers)
    return reply.status, names, reply.body


@given(pieces=connections())
@settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_both_lanes_give_the_same_answers(lanes: list[GatewayProcess], pieces: list[bytes]) -> None:
    fast, plain = (answers(gateway, pieces) for gateway in lanes)
    assert fast == plain
