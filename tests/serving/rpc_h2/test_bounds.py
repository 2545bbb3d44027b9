"""What is bounded on our own HTTP/2: memory, calls, connections, and how long anybody may take?"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from serving.http2.errors import Code
from serving.http2.frames import DATA, frame
from serving.rpc import serve_h2
from tests.running import Running
from tests.serving.http2.calling import (
    INFER,
    LIVE,
    STREAM,
    WATCH,
    Caller,
    framed,
    question,
)
from tests.serving.rpc_h2.serving_h2 import LARGE, X, look, serve
from tests.talking import eventually


@pytest.fixture(scope="module", autouse=True)
def _hurry() -> Iterator[None]:
    """Have servers look at their connections more often than once a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve_h2, "LOOK_S", 0.2)
        yield


# --- Memory.


def test_messages_in_memory_are_bounded_together_and_who_announces_much_must_send_some(folder):
    with serve(folder, limits={"body_bytes_max": 8 << 20, "bodies_bytes_max": 8 << 20}) as running:
        with Caller(running.grpc) as caller:
            announced = struct.pack(">BI", 0, 8 << 20) + b"x"
            ids = [caller.open(INFER) for _ in range(9)]
            for id_ in ids[:8]:
                caller.send(id_, announced, ended=False)
            assert eventually(lambda: running.rpc.bytes_now == 8 << 20)
            caller.send(ids[8], announced, ended=False)
            call = caller.wait(ids[8])
            assert call.status == 14 and "too many large" in call.text
            assert call.trailers == {} and call.headers["grpc-retry-pushback-ms"] == "1000"
            assert caller.ask(INFER, question("echo", X)).status == 0, "small ones find room"
        assert eventually(lambda: running.rpc.bytes_now == 0)


def test_answers_that_are_not_read_are_bounded_and_end_in_time(folder):
    limits = {"send_s_max": 1.0, "bodies_bytes_max": 2_000_000}
    with serve(folder, limits=limits) as running, Caller(running.grpc, window=0) as caller:
        ids = [caller.open(INFER) for _ in range(3)]
        for number, id_ in enumerate(ids, 1):
            caller.send(id_, framed(question("echo", LARGE[:2])))
            assert eventually(lambda number=number: running.rpc.unsent.bytes_now > min(number, 2) * 800_000)
        call = caller.wait(ids[2])
        assert call.status == 14 and "answers" in call.text
        with Caller(running.grpc) as other:
            assert other.ask(INFER, question("echo", X)).status == 0
        for id_ in ids[:2]:
            assert caller.wait(id_).reset == Code.ENHANCE_YOUR_CALM
        assert running.rpc.unsent.bytes_now == 0
        assert caller.wait(caller.open(INFER, ("grpc-timeout", "x"))).status == 3


def test_a_client_that_reads_nothing_at_all_is_cut_off(folder):
    with serve(folder, limits={"send_s_max": 1.0}) as running:
        with Caller(running.grpc, window=2**31 - 1, timeout_s=0.5) as caller:
            caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.h2.increment_flow_control_window(2**31 - 1 - 65_535)
            sent = framed(question("echo", LARGE[:2]))
            with contextlib.suppress(TimeoutError):
                for _ in range(15):
                    id_ = caller.open(INFER)
                    for at in range(0, len(sent), 16_384):
                        part = sent[at : at + 16_384]
                        ended = at + 16_384 >= len(sent)
                        caller.socket.sendall(frame(DATA, int(ended), id_, part))
            assert eventually(lambda: running.rpc.connections == 0)
        assert eventually(lambda: running.rpc.unsent.bytes_now == running.rpc.bytes_now == 0)


def _streams_max(running: Running) -> int:
    return max(each.core.streams_max for each in list(running.rpc._connections))


def test_calls_of_all_connections_are_bounded_together(running, monkeypatch):
    monkeypatch.setattr(serve_h2, "CALLS_MAX", 3)
    with Caller(running.grpc) as caller:
        assert caller.ask(LIVE, b"").status == 0
        ids = [caller.open(INFER) for _ in range(4)]
        assert eventually(lambda: _streams_max(running) == 0)
        assert caller.wait(caller.open(INFER)).reset == Code.REFUSED_STREAM
        for id_ in ids:
            caller.h2.reset_stream(id_)
        caller.flush()
        assert eventually(lambda: _streams_max(running) == 32)
        assert caller.ask(LIVE, b"").status == 0


# --- Time.


def test_a_message_that_does_not_arrive_in_time_is_refused(tight):
    with Caller(tight.grpc) as caller:
        bare = caller.open(INFER)
        half = caller.open(INFER)
        caller.send(half, framed(question("echo", X))[:20], ended=False)
        for id_ in (bare, half):
            call = caller.wait(id_)
            assert call.status == 4 and "limits.receive_s_max" in call.text
        assert caller.ask(LIVE, b"").status == 0


def test_half_a_message_of_a_stream_is_refused_in_time_but_a_quiet_stream_is_not(tight):
    with Caller(tight.grpc) as caller:
        quiet, half = caller.open(STREAM), caller.open(STREAM)
        caller.send(half, framed(question("echo", X))[:20], ended=False)
        assert caller.wait(half).status == 4
        look(tight, 1)
        caller.send(quiet, framed(question("echo", X)))
        assert caller.wait(quiet).status == 0


@pytest.mark.parametrize(
    "sent", [b"", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01"], ids=["nothing", "half", "TLS"]
)
def test_a_client_that_does_not_greet_is_cut_off(tight, sent):
    host, port = tight.grpc.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(sent)
        began_s = time.monotonic()
        while client.recv(65536):
            pass
        assert time.monotonic() - began_s < 30


def test_an_idle_connection_is_told_goodbye_whatever_it_pings(tight):
    with Caller(tight.grpc) as caller:
        assert caller.ask(LIVE, b"").status == 0
        began_s = time.monotonic()
        caller.socket.settimeout(0.3)
        while not caller.closed and time.monotonic() - began_s < 60:
            caller.h2.ping(b"12345678")
            time.sleep(0.02)
            try:
                caller.flush()
                caller.read()
            except TimeoutError:
                continue
            except OSError:
                break
        assert [each.error_code for each in caller.gone] == [Code.NO_ERROR] * 2
        assert 1 < time.monotonic() - began_s < 60


def test_a_client_with_open_streams_is_asked_whether_it_is_there_and_cut_off_if_it_is_not(tight):
    with Caller(tight.grpc) as caller:
        caller.send(caller.open(WATCH), framed(b""), ended=False)
        while not caller.pings:
            caller.read()
        began_s = time.monotonic()
        while time.monotonic() - began_s < 2.5:  # It answers pings by reading.
            caller.socket.settimeout(0.5)
            try:
                assert caller.read()
            except TimeoutError:
                continue
        assert tight.rpc.connections == 1
        began_s = time.monotonic()
        assert eventually(lambda: tight.rpc.connections == 0)  # Now it reads nothing.


def test_connections_beyond_the_number_allowed_are_told(tight):
    with Caller(tight.grpc) as one, Caller(tight.grpc) as two, Caller(tight.grpc) as three:
        with Caller(tight.grpc) as four:
            for each in (one, two, three, four):
                assert each.ask(LIVE, b"").status == 0
            with Caller(tight.grpc) as fifth:
                fifth.wait_closed()
                assert [each.error_code for each in fifth.gone] == [Code.ENHANCE_YOUR_CALM]
            assert four.ask(LIVE, b"").status == 0
        assert eventually(lambda: tight.rpc.connections == 3)
        with Caller(tight.grpc) as again:
            assert again.ask(LIVE, b"").status == 0
