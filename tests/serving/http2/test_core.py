"""Is the protocol core pure, and does it leave nothing behind?"""

from __future__ import annotations

import gc
import sys

import grimp
import pytest

from serving.http2 import frames
from serving.http2.bounds import Bounds
from serving.http2.errors import Code
from tests.serving.http2.talking import (
    CLOSING,
    GREETING,
    HEAD,
    OPENING,
    Client,
    Recorder,
    data,
    ending,
    frames_of,
    head,
)

IMPURE = {"asyncio", "socket", "ssl", "select", "selectors", "time", "threading", "random", "os", "uvloop"}


def test_the_core_knows_no_socket_no_clock_and_no_gateway():
    graph = grimp.build_graph("serving", include_external_packages=True, cache_dir=None)
    modules = {name for name in graph.modules if name.startswith("serving.http2")}
    assert len(modules) > 5
    imported = {
        target
        for name in modules
        for target in graph.find_modules_directly_imported_by(name)
        if not target.startswith("serving.http2")
    }
    assert "hpack" in imported
    assert imported <= {"hpack", "serving.memo"} | (sys.stdlib_module_names - IMPURE)


def test_requests_leave_nothing_to_the_garbage_collector():
    server = Recorder()
    server.receive(GREETING + head(1))
    server.answer(1, b"")
    gc.collect()
    gc.disable()
    try:
        for id_ in range(3, 2003, 10):
            server.receive(head(id_) + head(id_ + 2, ended=False) + data(id_ + 2, b"x"))
            server.answer(id_, b"fine")
            server.answer(id_ + 2, bytes(100_000) if id_ % 3 else b"")
            server.receive(head(id_ + 4) + frames.frame(frames.RST_STREAM, 0, id_ + 4, bytes(4)))
            server.receive(
                head(id_ + 6, ended=False) + frames.frame(frames.WINDOW_UPDATE, 0, id_ + 6, bytes(4))
            )
            server.receive(frames.frame(frames.WINDOW_UPDATE, 0, 0, (1000).to_bytes(4)))
            server.core.look()
            if id_ + 2 in server.core.streams:
                server.receive(frames.frame(frames.RST_STREAM, 0, id_ + 2, bytes(4)))
            server.sent()
        assert gc.collect() < 50
    finally:
        gc.enable()
    assert server.core.streams == {} and server.waiting == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_bytes_max": 16_383},
        {"frame_bytes_max": 1 << 24},
        {"window_bytes": 65_534},
        {"connection_window_bytes": 1 << 31},
        {"block_bytes_max": 16_385},
        {"streams_max": 0},
    ],
)
def test_bounds_that_http_2_has_not_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Bounds(**wrong)


def test_what_a_server_says_first_is_its_bounds():
    bounds = Bounds(streams_max=7, window_bytes=70_000, frame_bytes_max=20_000, fields_bytes_max=5000)
    client = Client(Recorder(bounds))
    client.exchange()
    said = client.h2.remote_settings
    assert (said.max_concurrent_streams, said.initial_window_size) == (7, 70_000)
    assert (said.max_frame_size, said.max_header_list_size) == (20_000, 5000)
    assert said.header_table_size == 4096
    assert client.h2.outbound_flow_control_window == bounds.connection_window_bytes


def test_a_peer_with_a_smaller_table_is_told_that_it_is_not_used():
    """RFC 7541, 4.2: else a strict decoder, such as h2's, refuses the next block."""
    server = Recorder()
    client = Client(server, {1: 0})
    client.exchange()
    client.h2.send_headers(1, HEAD, end_stream=True)
    client.h2.send_headers(3, HEAD, end_stream=True)
    client.exchange()
    server.answer(1, b"one")
    server.answer(3, b"two")
    client.exchange()
    assert client.data == {1: b"one", 3: b"two"}


def test_a_request_that_is_answered_before_its_end_is_broken_off_without_error():
    server = Recorder()
    server.receive(GREETING + head(1, ended=False))
    server.core.sender.refuse(server.core.streams[1], CLOSING)
    kinds = [(kind, payload) for kind, _, id_, payload in frames_of(server.sent()) if id_ == 1]
    assert kinds[-1] == (frames.RST_STREAM, bytes(4))
    server.receive(data(1, b"late"))
    assert not server.core.over


def test_pings_are_answered_with_what_they_say():
    server = Recorder()
    server.receive(GREETING)
    server.sent()
    server.receive(frames.ping(b"12345678", ack=False) + frames.ping(b"abcdefgh", ack=True))
    assert server.sent() == frames.ping(b"12345678", ack=True)


def test_leaving_is_said_twice_and_serves_what_crossed_with_it():
    server = Recorder()
    server.receive(GREETING + head(1))
    server.sent()
    server.core.leave()
    server.core.leave()
    first, ping = frames_of(server.sent())
    assert first[0] == frames.GOAWAY and first[3][:4] == b"\x7f\xff\xff\xff"
    server.receive(head(3))
    assert server.begun == [1, 3] and not server.core.finished
    server.receive(frames.ping(ping[3], ack=True) + head(5))
    assert server.begun == [1, 3], "told, and not served"
    (final,) = frames_of(server.sent())
    assert final[0] == frames.GOAWAY and final[3][:4] == b"\0\0\0\3"
    server.answer(1, b"")
    assert not server.core.finished
    server.answer(3, b"")
    assert server.core.finished


def test_leaving_does_not_wait_for_a_peer_that_answers_no_ping():
    server = Recorder()
    server.receive(GREETING)
    server.core.leave()
    server.core.look()
    assert not server.core.finished
    server.core.look()
    assert server.core.finished


def test_giving_up_cuts_off_everything_and_says_why():
    server = Recorder()
    server.receive(GREETING + head(1) + head(3, ended=False) + frames.frame(frames.PING, 0, 5, bytes(8)))
    assert ending(server) == (Code.PROTOCOL_ERROR, "PING on stream 5")
    assert server.cut_off == [1, 3] and server.core.finished
    assert repr(server.core).startswith("<Connection over")


def test_a_choked_transport_gets_nothing_more_until_it_is_free():
    server = Recorder()
    server.receive(GREETING + head(1) + head(3))
    server.sent()
    server.core.sender.choke(choked=True)
    server.answer(1, b"x" * 5000)
    server.answer(3, b"y")
    assert [each[0] for each in frames_of(server.sent())] == [frames.HEADERS] * 2
    server.core.sender.choke(choked=False)
    sent = frames_of(server.sent())
    assert [(kind, id_) for kind, _, id_, _ in sent] == [(0, 1), (1, 1), (0, 3), (1, 3)]


def test_streams_that_wait_share_the_connection_evenly():
    server = Recorder()
    server.receive(GREETING + head(1) + head(3) + frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\x10\0\0"))
    server.answer(1, bytes(200_000))
    server.answer(3, bytes(200_000))
    server.receive(frames.frame(frames.WINDOW_UPDATE, 0, 0, (400_000).to_bytes(4)))
    order = [id_ for kind, _, id_, _ in frames_of(server.sent()) if kind == frames.DATA]
    turns = order[4:]
    assert turns[:16] in ([1, 3] * 8, [3, 1] * 8)


def test_what_waits_has_its_time_from_when_it_became_the_first():
    server = Recorder()
    server.receive(GREETING + head(1) + frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\0\0\0"))
    stream, sender = server.core.streams[1], server.core.sender
    sender.open(stream, OPENING)
    server.core.look()
    for _ in range(3):
        sender.send(stream, (bytes(100),))
    assert stream.stuck_since == 1
    for turn, increment, since in ((2, 99, 1), (3, 1, 3), (4, 50, 3), (5, 50, 5)):
        server.core.look()
        server.receive(frames.frame(frames.WINDOW_UPDATE, 0, 1, increment.to_bytes(4)))
        assert (server.core.turn, stream.stuck_since) == (turn, since)


def test_a_stream_shows_what_it_is_about():
    server = Recorder()
    server.receive(GREETING + head(1, ended=False))
    stream = server.core.streams[1]
    server.core.sender.open(stream, OPENING)
    assert repr(stream) == "<Stream 1: receiving, 1048576 to come, 65535 to go, 0 unsent>"
    assert repr(server.core) == "<Connection open: 1 streams up to 1, 0 bytes unsent>"
