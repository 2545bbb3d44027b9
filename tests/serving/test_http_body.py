"""Chunked bodies: read alike however they arrive, and refused where readers could differ."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Limits
from serving.errors import HeadTooLarge, Invalid, TooLarge, TurnoutError
from serving.http_body import Chunks

LIMITS = Limits(body_bytes_max=1000, chunks_max=20, head_bytes_max=256)

EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b';a="b c";d', b";\xff\t", b";" + b"e" * 255])
TRAILERS = st.lists(st.sampled_from([b"x: y\r\n", b"x:\r\n", b"Content-Length: 5\r\n"]), max_size=3)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a chunked body and what it holds."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
    stream = b""
    for part in parts:
        size = draw(st.sampled_from([b"%x", b"%X", b"000%x"])) % len(part)
        stream += size + draw(EXTENSIONS) + b"\r\n" + part + b"\r\n"
    return stream + b"0" + draw(EXTENSIONS) + b"\r\n" + b"".join(draw(TRAILERS)) + b"\r\n", b"".join(parts)


def outcome(data: bytes, cuts: list[int], limits: Limits = LIMITS) -> tuple[object, ...]:
    """Feed `data` in pieces and say what came of it."""
    chunks, consumed = Chunks(limits), 0
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    try:
        for start, stop in pairwise(edges):
            took = chunks.feed(memoryview(data)[start:stop])
            assert took == stop - start or chunks.done
            consumed += took
    except TurnoutError as error:
        return type(error), str(error)
    return bytes(chunks.body), chunks.done, consumed


@given(streams(), st.binary(max_size=30), st.lists(st.integers(0, 500), max_size=12))
def test_any_split_of_a_body_reads_alike_and_takes_nothing_of_the_next_request(
    stream: tuple[bytes, bytes], after: bytes, cuts: list[int]
) -> None:
    """The content comes out whole, and exactly the body's bytes are consumed."""
    data, body = stream
    assert outcome(data + after, cuts) == (body, True, len(data))


@given(streams())
def test_a_body_read_byte_by_byte_is_the_same(stream: tuple[bytes, bytes]) -> None:
    """The smallest pieces there are."""
    data, body = stream
    assert outcome(data, list(range(len(data)))) == (body, True, len(data))


@given(streams(), st.binary(max_size=30), st.integers(1, 5))
def test_a_body_of_which_only_so_many_chunks_are_taken_at_once_is_the_same(
    stream: tuple[bytes, bytes], after: bytes, at_once: int
) -> None:
    """So that one client's million of chunks does not hold up the others."""
    data, body = stream
    chunks, at = Chunks(LIMITS), 0
    while not chunks.done:
        before = chunks._chunks
        took = chunks.feed((data + after)[at:], at_once)
        assert took and chunks._chunks - before <= at_once
        at += took
    assert (bytes(chunks.body), at) == (body, len(data))


@given(streams(), st.data())
def test_a_body_cut_short_is_not_done(stream: tuple[bytes, bytes], data: st.DataObject) -> None:
    """No proper beginning of a body passes for the whole."""
    whole, _ = stream
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    chunks = Chunks(LIMITS)
    assert chunks.feed(part) == len(part)
    assert not chunks.done


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"5", b"a", b"x", b";", b" ", b":", b"hello"])),
    st.lists(st.integers(0, 60), max_size=12),
)
def test_any_bytes_come_to_the_same_end_in_any_split(tokens: list[bytes], cuts: list[int]) -> None:
    """Good or bad, what a stream means does not depend on how it was cut, and no other error leaves."""
    data = b"".join(tokens)
    assert outcome(data, cuts) == outcome(data, [])


@given(streams(), st.data())
def test_a_changed_byte_is_read_alike_in_any_split(stream: tuple[bytes, bytes], data: st.DataObject) -> None:
    """The same, close to what is valid."""
    whole = bytearray(stream[0])
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    assert outcome(bytes(whole), cuts) == outcome(bytes(whole), [])


@pytest.mark.parametrize(
    "data",
    [
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5 ;a\r\nhello\r\n0\r\n\r\n",
        b"5\t\r\nhello\r\n0\r\n\r\n",
        b"5,5\r\nhello\r\n0\r\n\r\n",
        b"g\r\n",
        b"\xb2\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;\x00\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5;" + b"a" * 256 + b"\r\nhello\r\n0\r\n\r\n",
        b"0\r\nx\r\n\r\n",
        b"0\r\nx y: z\r\n\r\n",
        b"0\r\n: z\r\n\r\n",
        b"0\r\nx : z\r\n\r\n",
        b"0\r\nx: y\r\n z\r\n\r\n",
        b"0\r\nx: y\n\r\n",
        b"0\r\nx: \x00\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_spelling_that_readers_could_differ_on_is_invalid(data: bytes) -> None:
    """At once and byte by byte."""
    assert outcome(data, [])[0] is Invalid
    assert outcome(data, list(range(len(data))))[0] is Invalid


@pytest.mark.parametrize(
    "beginning", [b"x", b"5 ", b"5\n", b"5\rX", b"5\r\nhelloX", b"5\r\nhello\rX", b"f" * 17]
)
def test_a_malformed_size_is_refused_at_its_first_wrong_byte(beginning: bytes) -> None:
    """Nothing waits for a line end that may never come."""
    chunks = Chunks(LIMITS)
    assert chunks.feed(beginning[:-1]) == len(beginning) - 1
    with pytest.raises(Invalid, match="hexadecimal"):
        chunks.feed(beginning[-1:])


@pytest.mark.parametrize("size", [b"3e9", b"ffffffffffffffff"])
def test_a_chunk_too_large_is_refused_before_any_of_it_arrives(size: bytes) -> None:
    """Its size is enough to know."""
    with pytest.raises(TooLarge, match="body_bytes_max"):
        Chunks(LIMITS).feed(size + b"\r\n")


def test_the_limit_of_a_body_is_exact_over_all_chunks() -> None:
    """Just the limit is read; a byte more is refused, also if the body was cleared meanwhile."""
    half = b"1f4\r\n" + bytes(500) + b"\r\n"
    assert outcome(half * 2 + b"0\r\n\r\n", [])[0] == bytes(1000)
    chunks = Chunks(LIMITS)
    chunks.feed(half)
    chunks.body.clear()
    chunks.feed(half)
    with pytest.raises(TooLarge):
        chunks.feed(b"1\r\n")


def test_the_limit_of_chunks_is_exact() -> None:
    """The last chunk, which is empty, does not count."""
    assert outcome(b"1\r\nx\r\n" * 20 + b"0\r\n\r\n", [])[0] == b"x" * 20
    assert outcome(b"1\r\nx\r\n" * 21 + b"0\r\n\r\n", [])[0] is TooLarge


@given(st.lists(st.integers(0, 300), max_size=5))
def test_trailers_are_bounded_together(cuts: list[int]) -> None:
    """They may have as many bytes as a head, the blank line included."""
    line = b"x: " + b"y" * 59 + b"\r\n"
    assert outcome(b"0\r\n" + line * 3 + b"x: " + b"y" * 57 + b"\r\n\r\n", cuts)[1] is True
    assert outcome(b"0\r\n" + line * 4 + b"\r\n", cuts)[0] is HeadTooLarge
    assert outcome(b"0\r\nx: " + b"y" * 300, cuts)[0] is HeadTooLarge


def test_a_million_chunks_of_a_byte_are_refused_at_the_limit() -> None:
    """By default a client gets no further than 65,536, and costs no more memory than what it sent."""
    data = b"1\r\nx\r\n" * 1_000_000
    chunks = Chunks(Limits())
    started_s = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="65536 chunks"):
            chunks.feed(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20
    assert time.process_time() - started_s < 5


def cost_s(data: bytes, step: int) -> float:
    """Measure the CPU time of reading `data` in pieces of `step` bytes: the least of three."""
    times = []
    view = memoryview(data)
    for _ in range(3):
        chunks = Chunks(Limits(chunks_max=1 << 24))
        started_s = time.process_time()
        for start in range(0, len(view), step):
            chunks.feed(view[start : start + step])
        times.append(time.process_time() - started_s)
        assert chunks.done
    return min(times)


@pytest.mark.parametrize(
    ("chunk", "step"), [(b"1\r\nx\r\n", 1 << 16), (b"1\r\nx\r\n", 1), (b"1;aaaa\r\nx\r\n", 7)]
)
def test_the_cost_of_many_chunks_is_linear(chunk: bytes, step: int) -> None:
    """Eight times the chunks cost about eight times as much, in large pieces and byte by byte."""
    few, many = (cost_s(chunk * count + b"0\r\n\r\n", step) for count in (4_000, 32_000))
    assert many < 8 * few * 3


def test_a_million_chunks_of_a_byte_are_read_where_that_is_allowed() -> None:
    """In seconds, and with no memory but the million bytes."""
    chunks = Chunks(Limits(chunks_max=1 << 24))
    started_s = time.process_time()
    assert chunks.feed(b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n") == 6_000_005
    assert len(chunks.body) == 1_000_000
    assert time.process_time() - started_s < 10


def test_no_piece_is_held_on_to() -> None:
    """The caller's buffer can be resized after every piece."""
    buffer = bytearray(b"5\r\nhello\r\n0\r\nx")
    chunks = Chunks(LIMITS)
    chunks.feed(buffer)
    buffer += b"more"
    assert chunks.feed(b": y\r\n\r\n") == 7
    assert chunks.done
    assert chunks.body == b"hello"
    assert repr(chunks) == "<Chunks: 1 chunks, 5 bytes, done>"
