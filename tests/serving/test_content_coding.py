"""Compressed bodies: what goes in comes out, and a bomb does not."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Limits
from serving.content_coding import compress, decompress, worth
from serving.errors import Invalid, TooLarge, TurnoutError

LIMITS = Limits(body_bytes_max=1 << 20)
CODINGS = st.sampled_from(["gzip", "deflate"])
BODIES = st.binary(max_size=200) | st.tuples(st.binary(max_size=20), st.integers(1, 5000)).map(
    lambda pair: pair[0] * pair[1]
)


def raw(body: bytes) -> bytes:
    """Deflate without the zlib wrapping, as some clients send it."""
    stream = zlib.compressobj(6, wbits=-15)
    return stream.compress(body) + stream.flush()


@given(BODIES, CODINGS)
def test_a_body_survives_both_ways(body: bytes, coding: str) -> None:
    """Decompressing undoes compressing, from any kind of buffer."""
    small = compress(body, coding)
    assert decompress(small, coding, LIMITS) == body
    assert decompress(memoryview(bytearray(small)), coding, LIMITS) == body


@given(BODIES, st.integers(0, 9))
def test_what_other_compressors_write_is_read(body: bytes, level: int) -> None:
    """Any level, and deflate with and without its wrapping."""
    assert decompress(gzip.compress(body, level), "gzip", LIMITS) == body
    assert decompress(zlib.compress(body, level), "deflate", LIMITS) == body
    assert decompress(raw(body), "deflate", LIMITS) == body


@given(st.lists(BODIES, min_size=1, max_size=6))
def test_gzip_members_are_joined(bodies: list[bytes]) -> None:
    """A gzip file may be several, one after the other (RFC 1952, 2.2)."""
    assert decompress(b"".join(map(gzip.compress, bodies)), "gzip", LIMITS) == b"".join(bodies)


@given(BODIES, CODINGS, st.data())
def test_a_body_cut_short_is_invalid(body: bytes, coding: str, data: st.DataObject) -> None:
    """Not one byte may be missing."""
    small = compress(body, coding)
    with pytest.raises(Invalid):
        decompress(small[: data.draw(st.integers(0, len(small) - 1))], coding, LIMITS)


@given(BODIES, CODINGS, st.binary(min_size=1, max_size=20))
def test_a_body_that_goes_on_after_its_end_is_invalid(body: bytes, coding: str, garbage: bytes) -> None:
    """What follows the end would be read by some and dropped by others."""
    with pytest.raises(Invalid):
        decompress(compress(body, coding) + garbage, coding, LIMITS)


@given(st.binary(max_size=100), CODINGS)
def test_any_bytes_are_a_body_or_an_error_of_ours(body: bytes, coding: str) -> None:
    """No error of zlib comes out."""
    try:
        assert isinstance(decompress(body, coding, LIMITS), bytes)
    except TurnoutError as error:
        assert "body" in str(error)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_the_limit_is_exact(coding: str) -> None:
    """A body of just the limit is read, one byte more is not."""
    limits = Limits(body_bytes_max=100_000)
    assert decompress(compress(bytes(100_000), coding), coding, limits) == bytes(100_000)
    with pytest.raises(TooLarge, match="body_bytes_max"):
        decompress(compress(bytes(100_001), coding), coding, limits)


def test_the_limit_holds_over_all_members_together() -> None:
    """Many small members are one large body."""
    with pytest.raises(TooLarge, match="body_bytes_max"):
        decompress(gzip.compress(bytes(60_000)) * 2, "gzip", Limits(body_bytes_max=100_000))


def test_empty_members_are_bounded() -> None:
    """Members cost time even where they hold nothing."""
    with pytest.raises(TooLarge, match="members"):
        decompress(gzip.compress(b"") * 100_000, "gzip", LIMITS)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_of_a_gibibyte_takes_no_memory(coding: str) -> None:
    """1 GiB of zeros in 1 MiB: memory is bounded by the limit, not by what the client packed."""
    stream = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    first, then = (stream.compress(bytes(16 << 20)) + stream.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = first + then * 63  # After a full flush nothing refers back, so equal input is equal output.
    assert len(bomb) < 1.1 * (1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(bomb, coding, Limits(body_bytes_max=8 << 20))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 24 << 20


def test_a_body_of_the_limit_is_not_held_twice() -> None:
    """What is allowed costs about its own size."""
    small = compress(bytes(32 << 20), "gzip")
    tracemalloc.start()
    try:
        assert len(decompress(small, "gzip", Limits(body_bytes_max=32 << 20))) == 32 << 20
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 48 << 20


def test_what_fits_a_packet_is_not_worth_compressing() -> None:
    """Small answers are sent as they are; size counts in bytes, whatever the buffer holds."""
    assert not worth(b"x" * 1000)
    assert worth(b"x" * 10_000)
    assert worth(memoryview(bytes(8000)).cast("I"))
