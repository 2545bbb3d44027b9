"""What does a peer get that breaks the protocol? Each case ends with the right code, and no more than that."""

from __future__ import annotations

import struct

import pytest

from serving.http2 import frames
from serving.http2.bounds import Bounds
from serving.http2.errors import Code
from serving.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.serving.http2.hostile import OPEN, SMALL, WHOLE, reset, setting, update
from tests.serving.http2.talking import (
    GREETING,
    HEAD,
    Recorder,
    block,
    data,
    ending,
    frames_of,
    head,
    resets,
)

CONNECTION_FAULTS = {
    "no preface": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Code.PROTOCOL_ERROR, "preface"),
    "a preface that goes wrong at its end": (
        frames.PREFACE[:-1] + b"x" + setting(),
        Code.PROTOCOL_ERROR,
        "preface",
    ),
    "no settings first": (frames.PREFACE + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR, "SETTINGS"),
    "an acknowledgement first": (frames.PREFACE + frames.SETTINGS_ACK, Code.PROTOCOL_ERROR, "SETTINGS"),
    "settings of a stream": (GREETING + frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR, "stream 1"),
    "settings cut short": (GREETING + frame(SETTINGS, 0, 0, b"12345"), Code.FRAME_SIZE_ERROR, "multiple"),
    "settings acknowledged with entries": (
        GREETING + frame(SETTINGS, ACK, 0, bytes(6)),
        Code.FRAME_SIZE_ERROR,
        "entries",
    ),
    "too many settings at once": (
        GREETING + setting(*[(99, 1)] * 9),
        Code.ENHANCE_YOUR_CALM,
        "more than 8 entries",
    ),
    "push that is neither on nor off": (GREETING + setting((2, 2)), Code.PROTOCOL_ERROR, "PUSH"),
    "an initial window too large": (GREETING + setting((4, 1 << 31)), Code.FLOW_CONTROL_ERROR, "WINDOW"),
    "frames too small": (GREETING + setting((5, 16_383)), Code.PROTOCOL_ERROR, "FRAME_SIZE"),
    "frames too large": (GREETING + setting((5, 1 << 24)), Code.PROTOCOL_ERROR, "FRAME_SIZE"),
    "windows that settings make too large": (
        GREETING + OPEN + update(1, 2**31 - 1 - 65_535) + setting((4, 70_000)),
        Code.FLOW_CONTROL_ERROR,
        "window",
    ),
    "a ping of a stream": (GREETING + frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR, "PING"),
    "a short ping": (GREETING + frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR, "PING"),
    "a goaway of a stream": (GREETING + frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR, "GOAWAY"),
    "a short goaway": (GREETING + frame(GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR, "GOAWAY"),
    "a push promise": (GREETING + frame(PUSH_PROMISE, 4, 1, bytes(4)), Code.PROTOCOL_ERROR, "PUSH_PROMISE"),
    "a continuation of nothing": (GREETING + frame(CONTINUATION, 4, 1), Code.PROTOCOL_ERROR, "CONTINUATION"),
    "a short priority": (GREETING + frame(PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR, "PRIORITY"),
    "a priority of the connection": (
        GREETING + frame(PRIORITY, 0, 0, bytes(5)),
        Code.PROTOCOL_ERROR,
        "PRIORITY",
    ),
    "a short reset": (GREETING + OPEN + frame(RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR, "RST"),
    "a reset of the connection": (GREETING + reset(0), Code.PROTOCOL_ERROR, "RST_STREAM on stream 0"),
    "a reset of a stream that is idle": (GREETING + reset(1), Code.PROTOCOL_ERROR, "never opened"),
    "a reset of a server's stream": (GREETING + OPEN + reset(2), Code.PROTOCOL_ERROR, "never opened"),
    "a short window update": (GREETING + frame(WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR, ""),
    "a window update of nothing": (GREETING + update(0, 0), Code.PROTOCOL_ERROR, "nothing"),
    "a window update of a stream that is idle": (GREETING + update(5, 1), Code.PROTOCOL_ERROR, "never"),
    "the connection's window too large": (
        GREETING + update(0, 2**31 - 1),
        Code.FLOW_CONTROL_ERROR,
        "window update",
    ),
    "data of the connection": (GREETING + data(0, b"x"), Code.PROTOCOL_ERROR, "never opened"),
    "data of a stream that is idle": (GREETING + data(1, b"x"), Code.PROTOCOL_ERROR, "never opened"),
    "data of a server's stream": (GREETING + OPEN + data(2, b"x"), Code.PROTOCOL_ERROR, "never opened"),
    "headers of the connection": (GREETING + head(0), Code.PROTOCOL_ERROR, "clients cannot open"),
    "headers of a server's stream": (GREETING + head(2), Code.PROTOCOL_ERROR, "clients cannot open"),
    "headers of a lower stream": (GREETING + head(5) + head(3), Code.STREAM_CLOSED, "ended"),
    "data padded beyond its end": (
        GREETING + OPEN + frame(DATA, PADDED, 1, b"\x06hello"),
        Code.PROTOCOL_ERROR,
        "padding",
    ),
    "padded data without the padding's length": (
        GREETING + OPEN + frame(DATA, PADDED, 1),
        Code.FRAME_SIZE_ERROR,
        "padding",
    ),
    "headers padded beyond their end": (
        GREETING + frame(HEADERS, END_HEADERS | PADDED, 1, b"\x01"),
        Code.PROTOCOL_ERROR,
        "padding",
    ),
    "headers too short for their priority": (
        GREETING + frame(HEADERS, END_HEADERS | PRIORITISED, 1, bytes(4)),
        Code.FRAME_SIZE_ERROR,
        "priority",
    ),
    "a frame between headers and their continuation": (
        GREETING + frame(HEADERS, 0, 1, block()) + frame(PING, 0, 0, bytes(8)),
        Code.PROTOCOL_ERROR,
        "CONTINUATION",
    ),
    "a large frame there": (
        GREETING + frame(HEADERS, 0, 1, block()) + frame(DATA, 0, 1, bytes(20_000)),
        Code.PROTOCOL_ERROR,
        "CONTINUATION",
    ),
    "a continuation of another stream": (
        GREETING + frame(HEADERS, 0, 1, block()) + frame(CONTINUATION, 4, 3),
        Code.PROTOCOL_ERROR,
        "CONTINUATION",
    ),
    "an unknown frame there": (
        GREETING + frame(HEADERS, 0, 1, block()) + frame(0xBE, 0, 1),
        Code.PROTOCOL_ERROR,
        "CONTINUATION",
    ),
    "headers in too many frames": (
        GREETING + frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1) * 4,
        Code.ENHANCE_YOUR_CALM,
        "4 frames",
    ),
    "headers too long, in frames": (
        GREETING + frame(HEADERS, 0, 1, bytes(600)) + frame(CONTINUATION, 0, 1, bytes(600)),
        Code.ENHANCE_YOUR_CALM,
        "1000 bytes",
    ),
    "headers too long, in one": (
        GREETING + frame(HEADERS, END_HEADERS, 1, bytes(1001)),
        Code.ENHANCE_YOUR_CALM,
        "1000 bytes",
    ),
    "headers longer than any frame": (
        GREETING + frame(HEADERS, END_HEADERS, 1, bytes(16_385)),
        Code.FRAME_SIZE_ERROR,
        "16385",
    ),
    "data longer than any frame": (
        GREETING + OPEN + frame(DATA, 0, 1, bytes((1 << 20) + 1)),
        Code.FRAME_SIZE_ERROR,
        "1048577",
    ),
    "an unknown frame that is too long": (
        GREETING + frame(0xBE, 0, 0, bytes(16_385)),
        Code.FRAME_SIZE_ERROR,
        "16385",
    ),
    "a header list that is too long unpacked": (
        GREETING + frame(HEADERS, END_HEADERS, 1, block([*HEAD, ("x", "y" * 100)]) + b"\xbe" * 20),
        Code.ENHANCE_YOUR_CALM,
        "2000 bytes",
    ),
    "too many fields": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\x90" * 21),
        Code.ENHANCE_YOUR_CALM,
        "20 fields",
    ),
    "an index that the table has not": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\xff\x7f"),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
    "index zero": (GREETING + frame(HEADERS, END_HEADERS, 1, b"\x80"), Code.COMPRESSION_ERROR, "unpacked"),
    "a field cut short": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\0\x05a"),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
    "an endless number": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\xff" * 900),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
    "a Huffman code that ends in the middle": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\0\x01a\x81\x00"),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
    "a table larger than was offered": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f" + block()),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
    "a table that changes its size again and again": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\x20" * 3 + block()),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
    "a table that changes its size behind a field": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\x82\x20"),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
    "trailers that cannot be unpacked": (
        GREETING + OPEN + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x80"),
        Code.COMPRESSION_ERROR,
        "unpacked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONNECTION_FAULTS)
def test_what_spoils_the_connection_ends_it_with_its_code(case: str) -> None:
    """All at once and byte by byte; nothing that comes behind is taken."""
    sent, code, words = CONNECTION_FAULTS[case]
    for step in (len(sent), 1):
        server = Recorder(SMALL)
        for at in range(0, len(sent), step):
            server.receive(sent[at : at + step])
        assert server.core.over
        found = ending(server)
        assert found is not None
        assert found[0] is code
        assert words in found[1]
        assert server.faults == [code]
        assert server.core.streams == {}
        before = list(server.begun)
        server.receive(head(99) + frame(PING, 0, 0, bytes(8)))
        assert server.begun == before and server.sent() == b"" and server.tail == b""


STREAM_FAULTS = {
    "data behind the end": (WHOLE + data(1, b"x"), Code.STREAM_CLOSED),
    "headers behind the end": (WHOLE + head(1), Code.STREAM_CLOSED),
    "a second head": (OPEN + head(1, ended=False), Code.PROTOCOL_ERROR),
    "pseudo-headers in the trailers": (OPEN + head(1), Code.PROTOCOL_ERROR),
    "more data than the window": (
        OPEN + data(1, bytes(16_384), ended=False) * 2 + data(1, bytes(16_384), ended=False) * 2,
        Code.FLOW_CONTROL_ERROR,
    ),
    "a window update of nothing": (OPEN + update(1, 0), Code.PROTOCOL_ERROR),
    "a window too large": (OPEN + update(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "a content-length and no content": (
        head(1, fields=[*HEAD, ("content-length", "1")]),
        Code.PROTOCOL_ERROR,
    ),
    "less content than announced": (
        head(1, ended=False, fields=[*HEAD, ("content-length", "3")]) + data(1, b"12"),
        Code.PROTOCOL_ERROR,
    ),
    "more content than announced": (
        head(1, ended=False, fields=[*HEAD, ("content-length", "1")]) + data(1, b"12", ended=False),
        Code.PROTOCOL_ERROR,
    ),
    "less content than announced, and trailers": (
        head(1, ended=False, fields=[*HEAD, ("content-length", "3")]) + head(1, fields=[("x", "y")]),
        Code.PROTOCOL_ERROR,
    ),
}
MALFORMED = {
    "no method": HEAD[1:],
    "no scheme": HEAD[:1] + HEAD[2:],
    "no path": HEAD[:2] + HEAD[3:],
    "an empty path": [*HEAD[:2], (":path", ""), *HEAD[3:]],
    "a path that is none": [*HEAD[:2], (":path", "x"), *HEAD[3:]],
    "two methods": [HEAD[0], *HEAD],
    "a pseudo-header behind a field": [*HEAD[:3], ("te", "trailers"), (":authority", "test")],
    "an answer's pseudo-header": [(":status", "200"), *HEAD],
    "an unknown pseudo-header": [(":protocol", "websocket"), *HEAD],
    "a name in upper case": [*HEAD, ("X-Y", "z")],
    "an empty name": [*HEAD, ("", "z")],
    "a name with a space": [*HEAD, ("x y", "z")],
    "a name with a colon": [*HEAD, ("x:y", "z")],
    "a value with a line feed": [*HEAD, ("x", "y\nz: 1")],
    "a value with a carriage return": [*HEAD, ("x", "y\rz")],
    "a value with a zero": [*HEAD, ("x", "y\0z")],
    "a value that begins with a space": [*HEAD, ("x", " y")],
    "a value that ends with a tab": [*HEAD, ("x", "y\t")],
    "a path with a line feed": [*HEAD[:2], (":path", "/x\n"), *HEAD[3:]],
    "a connection field": [*HEAD, ("connection", "close")],
    "a keep-alive field": [*HEAD, ("keep-alive", "5")],
    "a proxy-connection field": [*HEAD, ("proxy-connection", "close")],
    "a transfer-encoding field": [*HEAD, ("transfer-encoding", "chunked")],
    "an upgrade field": [*HEAD, ("upgrade", "h2c")],
    "te for something else": [*HEAD, ("te", "gzip")],
    "a host that contradicts": [*HEAD, ("host", "other")],
    "two hosts": [*HEAD[:3], ("host", "a"), ("host", "b")],
    "two lengths": [*HEAD, ("content-length", "0"), ("content-length", "0")],
    "a length with a sign": [*HEAD, ("content-length", "+0")],
    "a length in words": [*HEAD, ("content-length", "none")],
    "a length beyond all": [*HEAD, ("content-length", "9" * 19)],
}
STREAM_FAULTS |= {
    f"a head with {what}": (head(1, fields=fields), Code.PROTOCOL_ERROR) for what, fields in MALFORMED.items()
}


@pytest.mark.parametrize("case", STREAM_FAULTS)
def test_what_spoils_a_stream_ends_that_alone_with_its_code(case: str) -> None:
    """The stream is reset, and the connection serves the next one."""
    sent, code = STREAM_FAULTS[case]
    for step in (len(sent), 1):
        server = Recorder(SMALL)
        server.generous = False
        server.receive(GREETING)
        for at in range(0, len(sent), step):
            server.receive(sent[at : at + step])
        assert resets(server.sent()) == {1: code}
        assert server.faults == [code]
        assert not server.core.over
        assert 1 not in server.core.streams
        assert server.cut_off in ([], [1])
        server.receive(head(3))
        server.answer(3, b"fine")
        assert [each[2] for each in frames_of(server.sent())] == [3, 3, 3]


def test_data_in_flight_of_a_stream_that_was_broken_off_is_forgiven_and_counted() -> None:
    """Its sender could not know; the connection's window gets its bytes back."""
    server = Recorder(SMALL)
    server.receive(GREETING + OPEN + update(1, 0))
    assert resets(server.sent()) == {1: Code.PROTOCOL_ERROR}
    server.core.patience.renew()
    for _ in range(8):
        server.receive(data(1, bytes(10_000), ended=False))
    assert not server.core.over
    opened = [
        struct.unpack(">I", each[3])[0] for each in frames_of(server.sent()) if each[0] == WINDOW_UPDATE
    ]
    assert sum(opened) >= 50_000
    assert server.core.patience.idle_frames == 8


def test_a_stream_that_was_ended_by_both_is_not_to_be_spoken_of_again() -> None:
    """What comes for it is no accident: RFC 9113, 5.1."""
    server = Recorder(SMALL)
    server.receive(GREETING + WHOLE)
    server.answer(1, b"fine")
    server.receive(reset(1) + update(1, 5))
    assert not server.core.over, "both may cross with the answer"
    server.receive(data(1, b"x"))
    found = ending(server)
    assert found is not None and found[0] is Code.STREAM_CLOSED


def test_only_so_many_broken_off_streams_are_remembered() -> None:
    """The oldest is forgotten first; then its late frames count as a fault."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    for id_ in range(1, 19, 2):
        server.receive(head(id_, ended=False) + update(id_, 0))
    assert len(server.core._streams._dropped) == SMALL.dropped_max
    server.receive(data(3, b"x"))
    assert not server.core.over
    server.receive(data(1, b"x"))
    assert server.core.over


def test_the_connection_s_window_is_enforced() -> None:
    """A peer that goes on before it was allowed to is cut off; it counts what is in padding, too."""
    bounds = Bounds(connection_window_bytes=65_535, window_bytes=1 << 20)
    server = Recorder(bounds)
    server.core._incoming._room_min = 0  # As if no window update had reached the peer.
    server.receive(GREETING + OPEN)
    padded = frame(DATA, PADDED, 1, b"\xff" + bytes(255))
    for _ in range(65_535 // 256):
        server.receive(padded)
        server.core.patience.renew()
    assert not server.core.over
    server.receive(padded)
    found = ending(server)
    assert found is not None and found[0] is Code.FLOW_CONTROL_ERROR
