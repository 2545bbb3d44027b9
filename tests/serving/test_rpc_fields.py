"""How a gRPC answer's headers and trailers are written: as any HPACK decoder reads them, and bounded."""

from __future__ import annotations

import urllib.parse

from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import HTTP_STATUS, Invalid, Overloaded, UnknownEncoding
from serving.rpc import fields, status

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


def unpacked(block: fields.Block) -> dict[str, str]:
    front, packed = block
    assert int.from_bytes(front[:3]) == len(packed) <= 16_384
    return dict(Decoder().decode(packed))


@given(st.from_regex(r"\A[a-z-]{1,200}\Z"), st.binary(max_size=20_000).map(lambda it: it.hex()[:20_000]))
def test_a_field_of_any_length_is_read_as_it_was_written(name: str, value: str) -> None:
    """Lengths of one byte, of two and of three."""
    assert Decoder().decode(fields.pack(name, value)) == [(name, value)]


@given(TEXTS)
def test_a_message_is_read_back_as_it_was_said(text: str) -> None:
    """It is printable ASCII on the wire."""
    written = fields.message(text)
    assert all(0x20 <= byte <= 0x7E for byte in written)
    assert urllib.parse.unquote_to_bytes(written).decode() == text


@given(st.sampled_from(["x", "%", "é", "€", "😀"]), st.integers(300, 9000))
def test_a_long_message_is_cut_between_characters(character: str, length: int) -> None:
    """What clients take of trailers is bounded, and half a character would be none."""
    written = fields.message(character * length)
    assert len(written) <= fields.MESSAGE_BYTES_MAX
    assert urllib.parse.unquote_to_bytes(written).decode().rstrip(".").strip(character) == ""


def test_every_error_becomes_trailers_or_all_there_is() -> None:
    """With the same status and text."""
    for kind in HTTP_STATUS:
        error = (
            kind("what is wrong: 100 %", "GET")
            if kind.__name__ == "WrongMethod"
            else kind("what is wrong: 100 %")
        )
        for opened in (False, True):
            said = unpacked(fields.failing(error, opened=opened))
            assert said["grpc-status"] == str(status.code(error))
            assert said["grpc-message"] == "what is wrong: 100 %25"
            assert (":status" in said) == (not opened) == ("content-type" in said)


def test_some_errors_say_more() -> None:
    """What would work, and when."""
    assert unpacked(fields.failing(Overloaded("x", 2), opened=False))["grpc-retry-pushback-ms"] == "2000"
    assert "gzip" in unpacked(fields.failing(UnknownEncoding("x"), opened=False))["grpc-accept-encoding"]
    assert "grpc-accept-encoding" not in unpacked(fields.failing(Invalid("x"), opened=False))


def test_trailers_of_a_stamp_are_made_once_and_bounded() -> None:
    """However many revisions there have been."""
    assert fields.closing(b"7;3;split") is fields.closing(b"7;3;split")
    assert unpacked(fields.closing(b"7;3;split")) == {"grpc-status": "0", "turnout-route": "7;3;split"}
    assert unpacked(fields.closing(b"")) == {"grpc-status": "0"}
    for revision in range(3 * fields.CLOSINGS_MAX):
        fields.closing(b"7;%d;split" % revision)
        assert len(fields._closings) <= fields.CLOSINGS_MAX
