"""Where requests end, whatever stands in them and however they came."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.wire.pieces import MAX_LINE_BYTES, Pieces

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"


def taken(pieces: Pieces) -> list[bytes]:
    found = []
    while pieces:
        found += [piece] if (piece := pieces.take()) else []
    return found


def in_chunks(*parts: bytes) -> list[bytes]:
    pieces = Pieces()
    pieces.begin_body(None)
    found = []
    for part in parts:
        pieces.add(part)
        found += taken(pieces)
    assert pieces.broken or not pieces.in_body
    return [b"broken"] if pieces.broken else found


def test_heads_are_pieces_and_so_are_the_empty_lines_before_them() -> None:
    pieces = Pieces()
    pieces.add(b"\r\n\r\n" + HEAD + HEAD + b"\r\nGET /")
    assert taken(pieces) == [b"\r\n\r\n", HEAD, HEAD, b"\r\n", b"GET /"]
    assert pieces.take() == b""


def test_a_body_is_as_long_as_is_said() -> None:
    pieces = Pieces()
    pieces.add(HEAD + b"12\r\n\r\n345" + HEAD)
    assert pieces.take() == HEAD
    pieces.begin_body(9)
    assert pieces.in_body
    assert pieces.take() == b"12\r\n\r\n345"
    assert not pieces.in_body
    assert taken(pieces) == [HEAD]


def test_a_body_may_come_in_several_pieces() -> None:
    pieces = Pieces()
    pieces.begin_body(5)
    pieces.add(b"123")
    assert taken(pieces) == [b"123"]
    pieces.add(b"45" + HEAD)
    assert taken(pieces) == [b"45", HEAD]


def test_a_request_without_a_body_ends_with_its_head() -> None:
    pieces = Pieces()
    pieces.add(HEAD)
    pieces.take()
    pieces.begin_body(0)
    assert not pieces.in_body


def test_a_body_in_chunks_ends_behind_the_last_one() -> None:
    chunks = b"4\r\n\r\n\r\n\r\n2;a=b\r\n0\r\r\n000\r\n"
    assert in_chunks(chunks + b"\r\n" + HEAD) == [chunks, b"\r\n", HEAD]


def test_fields_behind_the_last_chunk_are_dropped() -> None:
    assert in_chunks(b"0\r\nA: b\r\nC:\r\n\r\n" + HEAD) == [b"0\r\n", b"\r\n", HEAD]
    assert in_chunks(b"0\r\nA: ", b"b\r", b"\n\r", b"\n") == [b"0\r\n", b"\r\n"]


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"\r\n",
        b"1\n",
        b"fffffffffffffffff\r\n",
        b"1;" + b"x" * MAX_LINE_BYTES + b"\r\n",
        b"1;" + b"x" * MAX_LINE_BYTES,
        b"0\r\nno field\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n" + b"A: b\r\n" * (MAX_LINE_BYTES // 6 + 1) + b"\r\n",
    ],
)
def test_where_the_end_of_a_body_cannot_be_found_nothing_more_is_given_out(chunks: bytes) -> None:
    assert in_chunks(chunks + HEAD) == [b"broken"]
    assert in_chunks(*(bytes([byte]) for byte in chunks)) == [b"broken"]


def test_what_has_been_taken_is_not_kept() -> None:
    pieces, read = Pieces(), HEAD + b"0\r\nA: b\r\n"
    held = sys.getrefcount(read)
    pieces.add(read)
    pieces.take()
    assert sys.getrefcount(read) == held + 1
    pieces.begin_body(None)
    taken(pieces)
    assert sys.getrefcount(read) == held


def test_what_is_cleared_is_gone() -> None:
    pieces = Pieces()
    pieces.add(b"abc")
    pieces.clear()
    assert not pieces
    pieces.add(b"d")
    assert taken(pieces) == [b"d"]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[start:end] for start, end in pairwise(at)]


@given(
    bodies=st.lists(st.lists(st.sampled_from([b"\r\n\r\n", b"\r", b"\n", b"a", b"0\r\n\r\n"]))),
    chunked=st.booleans(),
    cuts=st.lists(st.integers(1, 400), max_size=20),
)
def test_no_piece_goes_beyond_the_end_of_a_request(
    bodies: list[list[bytes]], chunked: bool, cuts: list[int]
) -> None:
    """However they came; and nothing is lost."""
    framed = [
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in body) + b"0\r\n\r\n"
        if chunked
        else b"".join(body)
        for body in bodies
    ]
    data, lengths, ends = b"", {}, set()  # `lengths`: of bodies, by where their heads end
    for body in framed:
        data += HEAD
        lengths[len(data)] = None if chunked else len(body)
        data += body
        ends |= {len(data) - len(body), len(data)}
    pieces, at = Pieces(), 0
    for part in cut(data, cuts):
        pieces.add(part)
        while pieces:
            piece = pieces.take()
            assert piece == data[at : at + len(piece)]
            assert not [end for end in ends if at < end < at + len(piece)]
            at += len(piece)
            if at in lengths and not pieces.in_body:
                pieces.begin_body(lengths.pop(at))
    assert at == len(data)
    assert not pieces.broken
