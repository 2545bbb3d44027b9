"""Does the gRPC load client count what it should, and refuse to count what it should not?"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from loadtests.grpcbench.wire_client import CallError, Work, read_messages, run
from tests.models import identity, mlp, place
from tests.running import Running
from tests.serving.http2.calling import question


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def port(request, tmp_path_factory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("wire")
    place(folder / "models", "S", 1, mlp())
    place(folder / "models", "echo", 1, identity("FP32"))
    with Running(folder / "models", folder / "state", {"grpc": {"engine": request.param}}) as running:
        yield int(running.grpc.rsplit(":", 1)[1])


def framed(*messages: bytes) -> list[bytes]:
    return [struct.pack(">BI", 0, len(message)) + message for message in messages]


def test_calls_are_answered_on_every_connection_and_stream(port):
    messages = framed(*[question("S", np.full((1, 16), number, np.float32)) for number in range(7)])
    for connections, streams in ((1, 1), (3, 1), (1, 5)):
        found = run(port, Work(messages, [("x-user-id", "u")]), connections, streams, 0.2, 0.05)
        assert found["answered"] > 10
        assert found["per_s"] == pytest.approx(found["answered"] / 0.2, rel=0.5)
        assert 0 < found["p50_us"] <= found["p99_us"] < 1e6


def test_messages_larger_than_the_server_s_windows_are_sent_as_those_allow(port):
    messages = framed(question("echo", np.ones((1, 150_000), np.float32)))
    assert run(port, Work(messages), 2, 2, 0.5, 0.0)["answered"] > 2


def test_an_error_is_no_answer(port):
    with pytest.raises(CallError, match="NOT_FOUND"):
        run(port, Work(framed(question("nobody", np.ones((1, 16), np.float32)))), 1, 1, 0.2, 0.0)


def test_a_file_of_messages_is_read_as_it_was_written(tmp_path):
    (tmp_path / "messages").write_bytes(b"00000003abc00000000")
    assert read_messages(tmp_path / "messages") == framed(b"abc", b"")
