"""What holds whatever a peer sends, and however its bytes arrive?"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import h2.settings
import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from serving.http2 import frames
from serving.http2.blocks import Blocks, shared_heads
from serving.http2.bounds import WINDOW_BYTES_MAX, Bounds
from serving.http2.errors import ConnectionFault
from serving.http2.frames import ACK, DATA, END_STREAM, HEADERS, PADDED, SETTINGS, WINDOW_UPDATE, frame
from serving.http2.heads import Head
from serving.http2.unpacking import Unpacker
from tests.serving.http2.talking import GREETING, HEAD, Client, Recorder, block, frames_of, head
from tests.slow import slow

BOUNDS = Bounds(
    streams_max=3,
    window_bytes=65_535,
    connection_window_bytes=70_000,
    frame_bytes_max=30_000,
    block_bytes_max=400,
    block_frames_max=3,
    fields_bytes_max=1000,
    settings_max=4,
    idle_frames_max=30,
    resets_max=5,
    unsent_bytes_max=40_000,
    dropped_max=4,
)
IDS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 5, 7, 9, 11, 2**31 - 1])
NUMBERS = st.sampled_from([0, 1, 5, 1000, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
PACKED = st.sampled_from(
    [
        block(),
        block([*HEAD, ("content-length", "5")]),
        block(HEAD[1:]),
        block([("x", "y")]),
        b"\x82\x86\x44\x01/",
        b"\xbe\xbf",
        b"\x20",
        b"\x3f\xe1\x1f",
        b"\x80",
        b"",
        b"\0\x01a\x01b",
        bytes(500),
    ]
)
PIECES = st.sampled_from([b"", b"x", b"hello", bytes(16_384), bytes(20_000), b"\x01x\x00", b"\xff"])


@st.composite
def some_frames(draw: st.DrawFn) -> bytes:
    """Draw a frame that is nearly right, or right."""
    kind = draw(st.integers(0, 10))
    flags = draw(st.sampled_from([0, 1, 4, 5, 5, 8, 9, 0x0D, 0x20, 0x25, 0xFF]))
    id_ = draw(IDS)
    number = struct.pack(">I", draw(NUMBERS))
    payload = {
        0: draw(PIECES),
        1: draw(PACKED),
        2: number + b"\0",
        3: number,
        4: draw(st.lists(st.tuples(st.integers(0, 7), NUMBERS), max_size=5).map(_settings)),
        5: number + draw(PACKED),
        6: number * 2,
        7: number * 2,
        8: number,
        9: draw(PACKED),
        10: draw(PIECES)[:100],
    }[kind]
    if draw(st.integers(0, 9)) == 0:
        payload = payload[: draw(st.integers(0, len(payload)))]
    return frame(kind, flags, id_, payload)


def _settings(pairs: list[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack(">HI", *pair) for pair in pairs)


REQUESTS = st.builds(
    lambda id_, body: head(id_, ended=False) + frame(DATA, END_STREAM, id_, body),
    st.sampled_from([1, 3, 5, 7, 9, 11, 13]),
    st.sampled_from([b"", b"hello", bytes(3000), bytes(20_000)]),
)
STREAMS = st.lists(st.one_of(some_frames(), some_frames(), REQUESTS), max_size=25).map(b"".join)


def outcome(data: bytes, cuts: list[int]) -> Any:
    """Say what comes of a client's bytes that arrive in pieces."""
    server = Recorder(BOUNDS)
    server.generous = False
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        server.receive(data[start:stop])
        check(server)
    core = server.core
    state = (core.over, sorted(core.streams), core.patience.idle_frames, core.patience.resets)
    return server.begun, server.ended, server.cut_off, server.bodies, server.sent(), state


def check(server: Recorder) -> None:
    """Hold a core to its bounds, and to its own books."""
    core, sender = server.core, server.core.sender
    unsent = {id_: sum(map(len, each.unsent or ())) for id_, each in core.streams.items()}
    assert len(core.streams) <= BOUNDS.streams_max
    assert sender.unsent_bytes == server.waiting == sum(unsent.values())
    assert set(sender.ready) <= {id_ for id_, length in unsent.items() if length}
    assert core.patience.idle_frames <= BOUNDS.idle_frames_max + 1
    assert core.patience.resets <= BOUNDS.resets_max + 1
    assert len(core._streams._dropped) <= BOUNDS.dropped_max
    assert len(core._fragments._parts) <= BOUNDS.block_bytes_max
    assert all(each.window <= WINDOW_BYTES_MAX for each in core.streams.values())
    if core.over:
        assert not core.streams
        assert not server.tail


@given(st.one_of(STREAMS, st.binary(max_size=300)), st.lists(st.integers(0, 60_000), max_size=8))
def test_any_frames_come_to_the_same_end_in_any_split(data: bytes, cuts: list[int]) -> None:
    """Good or bad, nothing depends on how bytes arrive, and no error leaves."""
    assert outcome(GREETING + data, cuts) == outcome(GREETING + data, [])


@given(STREAMS.filter(lambda data: len(data) < 600))
def test_any_frames_come_to_the_same_end_byte_by_byte(data: bytes) -> None:
    """The smallest pieces there are."""
    assert outcome(GREETING + data, list(range(len(data) + 40))) == outcome(GREETING + data, [])


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_any_bytes_instead_of_a_greeting_end_the_same_way_in_any_split(data: bytes, cuts: list[int]) -> None:
    """There is no doubt about what is HTTP/2."""
    assert outcome(data, cuts) == outcome(data, [])


@given(st.data())
def test_a_changed_byte_never_raises(data: st.DataObject) -> None:
    """Close to what is valid."""
    whole = bytearray(GREETING + head(1, ended=False) + frame(DATA, PADDED | END_STREAM, 1, b"\x02hello\0\0"))
    whole += head(3) + frame(WINDOW_UPDATE, 0, 3, b"\0\0\0\x05") + frame(SETTINGS, ACK, 0)
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(whole), [])


class Peer:
    """Keeps the books of what a server may send, as its peer would, from what was sent to it."""

    def __init__(self) -> None:
        self.window = self.initial = 65_535
        self.windows: dict[int, int] = {}

    def tell(self, kind: int, flags: int, id_: int, payload: bytes) -> None:
        """Follow a frame that goes to the server."""
        if kind == HEADERS:
            self.windows.setdefault(id_, self.initial)
        elif kind == WINDOW_UPDATE:
            (increment,) = struct.unpack(">I", payload)
            if id_:
                self.windows[id_] += increment
            else:
                self.window += increment
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 4:
                    self.windows = {each: at + value - self.initial for each, at in self.windows.items()}
                    self.initial = value

    def hear(self, sent: bytes) -> None:
        """Hold what the server sends to it."""
        for kind, _, id_, payload in frames_of(sent):
            if kind == DATA and payload:
                self.window -= len(payload)
                self.windows[id_] -= len(payload)
                assert self.window >= 0 and self.windows[id_] >= 0
                assert len(payload) <= 16_384


STEPS = st.one_of(
    st.tuples(st.just("window"), st.integers(0, 5), st.integers(1, 30_000)),
    st.tuples(st.just("settings"), st.just(0), st.sampled_from([0, 1, 500, 65_535, 200_000])),
    st.tuples(st.just("answer"), st.integers(1, 5), st.integers(0, 60_000)),
    st.tuples(st.just("choke"), st.just(0), st.integers(0, 1)),
    st.tuples(st.just("reset"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("pump"), st.just(0), st.just(0)),
)


@given(st.lists(STEPS, max_size=40))
def test_no_more_is_sent_than_the_peer_allowed_and_what_is_sent_is_whole(steps: list[Any]) -> None:
    """Whatever the order of windows, settings, answers, resets and chokes."""
    server, peer = Recorder(Bounds(unsent_bytes_max=1 << 20)), Peer()
    answered: dict[int, int] = {}
    got: dict[int, int] = {}
    ended: set[int] = set()

    def tell(kind: int, flags: int, id_: int, payload: bytes) -> None:
        peer.tell(kind, flags, id_, payload)
        server.receive(frame(kind, flags, id_, payload))

    def hear() -> None:
        sent = server.sent()
        peer.hear(sent)
        for kind, flags, id_, payload in frames_of(sent):
            if kind == DATA:
                got[id_] = got.get(id_, 0) + len(payload)
            if kind == HEADERS and flags & END_STREAM:
                ended.add(id_)

    server.receive(GREETING)
    for number in range(1, 6):
        tell(HEADERS, 5, 2 * number - 1, block())
    for what, number, value in steps:
        id_ = max(0, 2 * number - 1)
        match what:
            case "window" if not id_ or id_ in server.core.streams:
                tell(WINDOW_UPDATE, 0, id_, struct.pack(">I", value))
            case "settings":
                tell(SETTINGS, 0, 0, struct.pack(">HI", 4, value))
            case "answer" if id_ in server.core.streams and id_ not in answered:
                answered[id_] = value
                server.answer(id_, bytes(value))
            case "choke":
                server.core.sender.choke(choked=bool(value))
            case "reset" if id_ in server.core.streams:
                tell(frames.RST_STREAM, 0, id_, bytes(4))
                answered.pop(id_, None)
            case "pump":
                server.core.sender.pump()
        hear()
    server.core.sender.choke(choked=False)
    tell(SETTINGS, 0, 0, struct.pack(">HI", 4, 300_000))
    tell(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20))
    server.core.sender.pump()
    hear()
    assert not server.core.over
    assert {id_: got.get(id_, 0) for id_ in answered} == answered
    assert set(answered) <= ended
    assert server.waiting == 0


BODIES = st.lists(
    st.tuples(st.integers(0, 200_000), st.integers(0, 200_000), st.integers(0, 200)), min_size=1, max_size=6
)


@given(BODIES, st.sampled_from([1, 100, 16_384, 65_535, 1 << 20]), st.lists(st.integers(1, 9000), max_size=9))
@slow
def test_requests_and_answers_of_an_ordinary_peer_come_through_whole(
    sizes: list[tuple[int, int, int]], window: int, cuts: list[int]
) -> None:
    """h2 at the other end holds us to the letter; its window is small or large, its frames are padded."""
    server = Recorder(Bounds(idle_frames_max=1_000_000))
    client = Client(server, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: max(window, 100)})
    client.exchange(cuts)
    bodies: dict[int, bytes] = {}
    for number, (length, _, padding) in enumerate(sizes):
        id_ = 2 * number + 1
        body = bodies[id_] = bytes([number]) * length
        client.h2.send_headers(id_, [*HEAD, ("x", str(number))])
        while body:
            room = (
                min(client.h2.local_flow_control_window(id_), client.h2.max_outbound_frame_size) - padding - 1
            )
            part, body = body[: max(0, room)], body[max(0, room) :]
            if room > 0:
                client.h2.send_data(id_, part, pad_length=padding)
            client.exchange(cuts)
        client.h2.end_stream(id_)
        client.exchange(cuts)
    assert server.bodies == bodies
    assert server.ended == list(bodies)
    answers = {2 * number + 1: bytes([number]) * length for number, (_, length, _) in enumerate(sizes)}
    for id_, message in answers.items():
        server.answer(id_, message)
    client.exchange(cuts)
    assert client.data == answers
    assert client.done == sorted(client.done, key=client.done.index) and set(client.done) == set(answers)
    assert set(client.statuses.values()) == {b"200"}
    assert not client.gone and not client.resets
    assert server.core.streams == {} and server.waiting == 0


@given(
    st.lists(st.integers(1, 400_000), min_size=1, max_size=3), st.lists(st.integers(1, 70_000), max_size=9)
)
def test_frames_larger_than_the_least_are_passed_on_as_they_arrive(sizes: list[int], cuts: list[int]) -> None:
    """In any split; no more is kept of them than a frame's header."""
    server = Recorder(Bounds(window_bytes=1 << 21))
    server.receive(GREETING + head(1, ended=False))
    sent = b"".join(frame(DATA, 0, 1, bytes([number]) * size) for number, size in enumerate(sizes))
    at = 0
    for cut in [*cuts, len(sent)]:
        server.receive(sent[at : at + cut])
        assert len(server.tail) < 16_384 + 9
        at += cut
    assert server.bodies[1] == b"".join(bytes([number]) * size for number, size in enumerate(sizes))


# --- Header blocks.

NAMES = st.sampled_from([b"x-a", b"x-b", b"user-agent", b"x-request-id"])
VALUES = st.one_of(
    st.sampled_from([b"", b"1", b"curl", b"y" * 300, b"z" * 2000]),
    st.binary(max_size=8).map(lambda it: it.hex().encode()),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=5)
TABLES = st.sampled_from([None, None, None, None, 0, 64, 300, 4096])


@given(st.lists(st.tuples(FIELDS, TABLES), min_size=1, max_size=30), st.randoms())
def test_heads_are_what_the_library_unpacks_whether_their_blocks_are_known_or_not(
    lists: list[Any], random: Any
) -> None:
    """Over any course of one connection: fields repeated, never indexed, evicted; tables resized."""
    blocks, plain, encoder = Blocks(Bounds(), shared_heads()), Decoder(), Encoder()
    base = [(name.encode(), value.encode()) for name, value in HEAD]
    for _ in range(2):
        for fields, size in lists:
            if size is not None:
                encoder.header_table_size = size
            listed = base + [
                NeverIndexedHeaderTuple(name, value) if never else (name, value)
                for name, value, never in fields
            ]
            packed = encoder.encode(listed, huffman=random.random() < 0.5)
            wanted = tuple([(name, value) for name, value in plain.decode(packed, raw=True)])
            head_ = blocks.known.get(packed) or blocks.head(packed)
            assert head_.fields == wanted[4:]
            assert (head_.method, head_.scheme, head_.path, head_.authority) == tuple(
                v for _, v in wanted[:4]
            )


def test_equal_heads_are_one_object_across_connections() -> None:
    """So that what follows from one is worked out once."""
    heads = shared_heads()
    one, other = Blocks(Bounds(), heads), Blocks(Bounds(), heads)
    encoder, further = Encoder(), [*HEAD, ("x", "y")]
    for fields in (HEAD, further):
        packed = block(fields, encoder)
        assert one.head(packed) is not other.head(packed), "with literals, likely said once"
    packed, more = block(HEAD, encoder), block(further, encoder)
    assert one.head(packed) is other.head(packed)
    assert one.head(more) is other.head(more) is not one.head(packed)


def test_a_block_that_changes_the_table_is_not_taken_for_the_same_twice() -> None:
    """It names entries by their distance from the newest one."""
    blocks = Blocks(Bounds(), shared_heads())
    encoder = Encoder()
    first = encoder.encode([*HEAD, ("x", "1")])
    blocks.head(first)
    assert first not in blocks.known
    again = encoder.encode([*HEAD, ("x", "1")])
    assert dict(blocks.head(again).fields)[b"x"] == b"1"
    assert again in blocks.known
    blocks.head(encoder.encode([*HEAD, ("x", "2")]))
    assert blocks.known == {}


@given(st.lists(st.one_of(st.binary(max_size=60), st.tuples(FIELDS, st.booleans())), max_size=8))
def test_any_blocks_are_unpacked_as_the_library_does_or_refused_as_it_refuses(course: list[Any]) -> None:
    """Good ones and garbage, one after the other on a connection."""
    unpacker, plain, encoder = Unpacker(Bounds()), Decoder(max_header_list_size=16_384), Encoder()
    for each in course:
        packed = (
            each
            if isinstance(each, bytes)
            else encoder.encode([(n, v) for n, v, _ in each[0]], huffman=each[1])
        )
        try:
            wanted = tuple([(name, value) for name, value in plain.decode(packed, raw=True)])
        except (HPACKError, IndexError):
            with pytest.raises(ConnectionFault):
                unpacker.unpack(packed)
            return
        try:
            assert unpacker.unpack(packed) == wanted
        except ConnectionFault:
            assert isinstance(each, bytes), "the library takes longer numbers, and more changes of size"
            return
        assert unpacker._entries[::-1] == list(plain.header_table.dynamic_entries)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_head_or_a_fault(packed: bytes) -> None:
    """And no other error."""
    server = Recorder(BOUNDS)
    server.receive(GREETING + frame(HEADERS, 5, 1, packed[:400]))
    assert server.core.over or isinstance(server.heads.get(1), Head) or 1 not in server.core.streams
