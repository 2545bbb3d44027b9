"""What does lawful talk get that costs more than it brings? Its end, after as much as is borne."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hpack import Encoder

from serving.http2 import frames
from serving.http2.bounds import Bounds
from serving.http2.errors import Code, Stuck
from serving.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    frame,
)
from serving.http2.patience import RESET_COSTS, WEARY
from serving.http2.settings import INITIAL_WINDOW_SIZE
from tests.serving.http2.hostile import OPEN, SMALL, literal, reset, setting, update
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


@pytest.mark.parametrize("flood", ["pings", "settings"])
def test_a_burst_of_them_is_taken_in_parts_and_comes_to_the_same(flood: str) -> None:
    """Whoever serves may turn to others in between."""
    whole, parts = Recorder(SMALL), Recorder(SMALL)
    for server in (whole, parts):
        server.receive(GREETING + OPEN)
        server.core.patience.renew()
    count = 2 * WEARY + 5
    for _ in range(count):
        whole.receive(IDLE[flood])
    data, calls = IDLE[flood] * count, 0
    while data:
        used = parts.core.receive(data)
        assert used <= WEARY * len(IDLE[flood])
        data, calls = data[used:], calls + 1
    assert calls == 3
    assert parts.sent() == whole.sent()


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


def test_of_requests_that_are_broken_off_few_are_taken_at_a_time() -> None:
    """Each takes as long as many frames do that bring nothing."""
    server = Recorder(SMALL)
    server.receive(GREETING)
    count = 2 * WEARY // RESET_COSTS
    content = b"".join(head(id_) + reset(id_) for id_ in range(1, 2 * count, 2))
    used = server.core.receive(content)
    assert used == len(content) // 2
    assert server.begun == list(range(1, count, 2))
    assert server.core.receive(content[used:]) == len(content) - used


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
