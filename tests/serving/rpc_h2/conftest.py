"""A gateway for all tests of a file, and one whose patience is short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import models
from tests.running import Running
from tests.serving.http2.calling import (
    Caller,
)
from tests.serving.rpc_h2.serving_h2 import serve
from tests.talking import eventually, give_back_memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h2")
    models.place(folder / "models", "echo", 1, models.identity("FP32"))
    models.place(folder / "models", "spin", 1, models.spinning())
    yield folder
    give_back_memory()


@pytest.fixture(scope="module")
def running(folder) -> Iterator[Running]:
    limits = {
        "body_bytes_max": 8 << 20,
        "bodies_bytes_max": 32 << 20,
        "answer_bytes_max": 6 << 20,
        "head_bytes_max": 4096,
    }
    with serve(folder, limits=limits, grpc={"streams_max": 32}) as running:
        yield running
        assert eventually(lambda: running.rpc.bytes_now == 0)
        assert running.rpc.unsent.bytes_now == 0


@pytest.fixture
def caller(running) -> Iterator[Caller]:
    with Caller(running.grpc) as caller:
        yield caller
    assert eventually(lambda: running.rpc.bytes_now == 0 and running.rpc.connections == 0)


TIGHT = {"receive_s_max": 0.6, "idle_s_max": 1.2, "send_s_max": 1.2, "connections_max": 4}


@pytest.fixture(scope="module")
def tight_one(folder) -> Iterator[Running]:
    with serve(folder, limits=TIGHT) as running:
        yield running


@pytest.fixture
def tight(tight_one) -> Running:
    assert eventually(lambda: tight_one.rpc.connections == 0)
    return tight_one
