"""What does a hostile peer get? Each case ends with the right code, and costs no more than it should."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest
from hpack import Encoder

from serving.http2 import frames
from serving.http2.bounds import Bounds
from serving.http2.errors import Code, Stuck
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
from serving.http2.settings import INITIAL_WINDOW_SIZE
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

SMALL = Bounds(
    streams_max=4,
    window_bytes=65_535,
    connection_window_bytes=100_000,
    block_bytes_max=1000,
    block_frames_max=4,
    fields_bytes_max=2000,
    fields_max=20,
    settings_max=8,
    idle_frames_max=50,
    resets_max=10,
    unsent_bytes_max=50_000,
    dropped_max=8,
)
NUMBER = struct.Struct(">I")


def setting(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def update(id_: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, id_, NUMBER.pack(increment))


def reset(id_: int, code: Code = Code.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, id_, NUMBER.pack(code))


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


OPEN = head(1, ended=False)
WHOLE = head(1)

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


# --- Floods: lawful frames that bring nothing.

IDLE = {
    "pings": frame(PING, 0, 0, bytes(8)),
    "answers to pings that were not asked": frame(PING, ACK, 0, bytes(8)),
    "settings": setting(),
    "settings that change all windows": setting((INITIAL_WINDOW_SIZE, 65_535)),
    "acknowledgements": frames.SETTINGS_ACK,
    "priorities": frame(PRIORITY, 0, 1, bytes(5)),
    "priorities of streams to come": frame(PRIORITY, 0, 99, bytes(5)),
    "window updates": update(0, 1),
    "window updates of a stream": update(1, 1),
    "data without data": data(1, ended=False),
    "data of padding alone": frame(DATA, PADDED, 1, b"\x05" + bytes(5)),
    "unknown frames": frame(0xBE, 0, 1, b"x"),
    "goodbyes": frame(GOAWAY, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("flood", IDLE)
def test_a_flood_of_frames_that_bring_nothing_ends_the_connection(flood: str) -> None:
    """As many as are borne, and one more; what was answered is bounded by that."""
    server = Recorder(SMALL)
    server.receive(GREETING + OPEN)
    server.core.patience.renew()
    server.sent()
    for _ in range(SMALL.idle_frames_max):
        server.receive(IDLE[flood])
    assert not server.core.over
    sent = server.sent()
    assert len(sent) <= SMALL.idle_frames_max * 17
    server.receive(IDLE[flood])
    found = ending(server)
    assert found is not None
    assert found[0] is Code.ENHANCE_YOUR_CALM
    assert "bring nothing" in found[1]


@pytest.mark.parametrize("flood", IDLE)
def test_the_same_frames_at_a_usual_pace_are_borne_for_ever(flood: str) -> None:
    """A look a second forgives."""
    server = Recorder(SMALL)
    server.receive(GREETING + OPEN)
    for _ in range(20):
        server.core.look()
        for _ in range(SMALL.idle_frames_max):
            server.receive(IDLE[flood])
        server.sent()
    assert not server.core.over


def test_requests_pay_for_the_window_updates_that_they_need() -> None:
    """A client that asks 1,000 times a second may send two updates and a ping with each."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    for id_ in range(1, 2001, 2):
        server.receive(head(id_) + update(0, 10) + update(id_, 10) + IDLE["pings"])
        server.answer(id_, b"0123456789")
        server.sent()
    assert not server.core.over


def test_rapid_reset_ends_the_connection() -> None:
    """CVE-2023-44487: requests begun only to be broken off, never more than four at a time."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    id_ = 1
    while not server.core.over:
        server.receive(head(id_) + reset(id_))
        id_ += 2
    assert len(server.begun) == SMALL.resets_max + 1
    found = ending(server)
    assert found is not None and found[0] is Code.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("how", ["a window update of nothing", "a second head", "a window too large"])
def test_making_the_server_reset_ends_the_connection_too(how: str) -> None:
    """CVE-2025-8671: the same, by provoking the resets."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    provoking = {
        "a window update of nothing": lambda id_: update(id_, 0),
        "a second head": lambda id_: head(id_, ended=False),
        "a window too large": lambda id_: update(id_, 2**31 - 1),
    }[how]
    id_ = 1
    while not server.core.over:
        server.receive(head(id_, ended=False) + provoking(id_))
        id_ += 2
    assert len(server.begun) == SMALL.resets_max + 1


def test_malformed_heads_end_the_connection_too() -> None:
    """Each is unpacked for nothing."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    for id_ in range(1, 2 * SMALL.resets_max + 3, 2):
        assert not server.core.over
        server.receive(head(id_, fields=HEAD[1:]))
    assert server.core.over
    assert server.begun == []


def test_cancelling_what_took_long_is_no_flood() -> None:
    """Whoever has deadlines cancels all at once when the server is late."""
    server = Recorder(Bounds(resets_max=10))
    server.receive(GREETING + b"".join(head(id_) for id_ in range(1, 201, 2)))
    server.core.look()
    server.receive(b"".join(reset(id_) for id_ in range(1, 201, 2)))
    assert not server.core.over
    assert server.core.streams == {}


def test_a_client_that_cancels_every_other_request_is_borne() -> None:
    """Hedged requests do that: those that are answered pay for those that are not."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    for id_ in range(1, 4001, 4):
        server.receive(head(id_) + head(id_ + 2) + reset(id_ + 2))
        server.answer(id_, b"fine")
        server.sent()
    assert not server.core.over


def test_requests_beyond_the_number_allowed_are_refused_and_may_be_tried_again() -> None:
    """Their heads are unpacked all the same, or the table would be wrong for those that follow."""
    server, encoder = Recorder(SMALL), Encoder()

    def ask(id_: int, *more: tuple[str, str]) -> bytes:
        return frame(HEADERS, END_HEADERS | END_STREAM, id_, block([*HEAD, *more], encoder))

    server.receive(GREETING)
    for id_ in range(1, 11, 2):
        server.receive(ask(id_, (f"x-{id_}", "y" * id_)))
    assert resets(server.sent()) == {9: Code.REFUSED_STREAM}
    server.answer(1, b"fine")
    server.receive(ask(11, ("x-9", "y" * 9)))
    assert server.begun == [1, 3, 5, 7, 11]
    assert (b"x-9", b"y" * 9) in server.heads[11].fields


def test_opening_streams_beyond_the_number_allowed_is_a_flood_too() -> None:
    """Refusing costs something."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    for id_ in range(1, 101, 2):
        server.receive(head(id_))
    assert server.core.over
    assert len(server.begun) == SMALL.streams_max


# --- Memory.


def test_a_peer_that_reads_nothing_is_sent_no_more_than_its_windows_and_the_rest_is_bounded() -> None:
    """Answers wait up to the bound; the next one is not begun."""
    server = Recorder(SMALL)
    server.receive(GREETING + setting((INITIAL_WINDOW_SIZE, 0)))
    for id_ in (1, 3, 5):
        server.receive(head(id_))
    server.answer(1, bytes(30_000))
    server.answer(3, bytes(20_000))
    assert server.core.sender.unsent_bytes == server.waiting == 50_000
    server.sent()
    with pytest.raises(Stuck):
        server.answer(5, b"x")
    assert server.sent() == b""
    server.receive(reset(1))
    assert server.core.sender.unsent_bytes == server.waiting == 20_000
    server.answer(5, b"x")
    server.core.lose()
    assert server.core.sender.unsent_bytes == server.waiting == 0


def test_one_answer_may_be_larger_than_the_bound_but_not_beside_another() -> None:
    """Else it could never be sent."""
    server = Recorder(SMALL)
    server.receive(GREETING + setting((INITIAL_WINDOW_SIZE, 0)) + head(1) + head(3))
    server.answer(1, bytes(200_000))
    with pytest.raises(Stuck):
        server.answer(3, b"x")


def test_what_all_connections_have_waiting_is_bounded_by_whoever_counts_it() -> None:
    """Its refusal leaves nothing begun."""
    server = Recorder(SMALL, unsent_max=1000)
    server.receive(GREETING + setting((INITIAL_WINDOW_SIZE, 0)) + head(1))
    server.sent()
    with pytest.raises(OverflowError):
        server.answer(1, bytes(1001))
    assert server.sent() == b""
    assert server.core.sender.unsent_bytes == server.waiting == 0
    assert 1 in server.core.streams


def test_a_header_bomb_costs_no_more_memory_than_its_list_may_have() -> None:
    """A field of 4,000 bytes in the table, and 10,000 references to it: 40 MB, if they were unpacked."""
    server = Recorder()
    packed = block([*HEAD, ("x", "y" * 3900)])
    bomb = frame(HEADERS, END_HEADERS | END_STREAM, 1, packed + b"\xbe" * 10_000)
    server.receive(GREETING)
    tracemalloc.start()
    try:
        server.receive(bomb)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert server.core.over
    assert peak_bytes < 1_000_000


def test_unpacking_any_header_block_takes_milliseconds_at_most() -> None:
    """The dearest blocks of 16 KiB that are known."""
    literals = b"".join(literal(b"a", b"") for _ in range(16_000 // 4))
    dear = {
        "indexed": b"\x82" * 16_000,
        "literals": literals,
        "inserted": b"\x40\x01a\x00" * 4000,
        "Huffman": b"\0\x01a\xff\x80\x7c" + b"\x1c" * 15_999,
        "numbers": (b"\xff" + b"\x80" * 4 + b"\0") * 2600,
        "updates": b"\x20" * 16_000,
    }
    for what, packed in dear.items():
        server = Recorder()
        server.receive(GREETING)
        began_s = time.process_time()
        server.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, packed[:16_384]))
        assert time.process_time() - began_s < 0.2, what


def test_known_blocks_are_bounded() -> None:
    """A peer that repeats nothing is remembered in a few kilobytes."""
    server = Recorder()
    server.receive(GREETING)
    for number in range(1000):
        server.receive(head(2 * number + 1, fields=[*HEAD, ("x", str(number))]))
        server.answer(2 * number + 1, b"")
        server.sent()
        assert len(server.core._known) <= 32


# --- Slowness.


def test_a_window_that_opens_byte_by_byte_earns_nothing() -> None:
    """CVE-2019-9511, data dribble: each update makes a frame, and each counts."""
    server = Recorder(SMALL)
    server.receive(GREETING + setting((INITIAL_WINDOW_SIZE, 0)) + head(1))
    server.answer(1, bytes(10_000))
    server.core.patience.renew()
    updates = 0
    while not server.core.over:
        server.receive(update(1, 1))
        updates += 1
    assert updates == SMALL.idle_frames_max + 1


def test_settings_that_shrink_windows_below_zero_send_nothing_until_they_are_open_again() -> None:
    """RFC 9113, 6.9.2: a window may be negative."""
    server = Recorder()
    server.receive(GREETING + setting((INITIAL_WINDOW_SIZE, 1000)) + head(1))
    server.answer(1, bytes(5000))
    assert sum(len(each[3]) for each in frames_of(server.sent()) if each[0] == DATA) == 1000
    server.receive(setting((INITIAL_WINDOW_SIZE, 400)))
    assert server.core.streams[1].window == -600
    server.receive(update(1, 600))
    assert not [each for each in frames_of(server.sent()) if each[0] == DATA]
    server.receive(update(1, 1))
    assert sum(len(each[3]) for each in frames_of(server.sent()) if each[0] == DATA) == 1
    server.receive(setting((INITIAL_WINDOW_SIZE, 100_000)))
    sent = frames_of(server.sent())
    assert sum(len(each[3]) for each in sent if each[0] == DATA) == 3999
    assert sent[-1][:3] == (HEADERS, END_HEADERS | END_STREAM, 1)
