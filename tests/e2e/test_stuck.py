"""What becomes of a gateway one of whose runs does not return."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.chaos import models
from loadtests.chaos.target import infer, post
from serving.track import STUCK_CODE
from tests.stage import Stage, staged

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return a control and a replica."""
    folder = tmp_path_factory.mktemp("stuck")
    models.lay_out(folder / "models")
    with staged(folder, folder / "models", replicas=1) as stage:
        yield stage


def _port(stage: Stage) -> int:
    return int(stage.http.rpartition(":")[2])


def _begin(stage: Stage, model: str) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", _port(stage)), 60)
    line.sendall(post(model, models.ENDLESS))
    return line


def test_a_run_that_does_not_end_by_itself_holds_nobody_up_for_long(stage: Stage) -> None:
    with _begin(stage, models.SPIN):
        until_s = time.monotonic() + 60
        while "version=spin@1 event=moved_to_thread" not in Path(stage.log.name).read_text():
            assert infer(_port(stage), models.REGISTER, 1.0, 60).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() < until_s
    # What its client does not wait for any more is stopped, and so the thread is free again.
    assert infer(_port(stage), models.SPIN, 3.0, 60).startswith(b"HTTP/1.1 200 ")


def test_a_request_whose_run_was_stopped_on_the_loop_is_late_only_at_its_own_deadline(stage: Stage) -> None:
    document = {
        "parameters": {"timeout": 1_500_000},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [models.ENDLESS]}],
    }
    url = f"http://{stage.http}/v2/models/{models.SPIN_TOO}/infer"
    with pytest.raises(urllib.error.HTTPError) as late:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(document).encode()), timeout=60)
    assert late.value.code == 504
    assert f"version={models.SPIN_TOO}@1 event=moved_to_thread" in Path(stage.log.name).read_text()


def test_a_replica_with_a_run_that_cannot_be_stopped_ends_itself_and_says_which(stage: Stage) -> None:
    with _begin(stage, models.STUCK):
        assert stage.replicas["r0"].wait(60) == STUCK_CODE
    assert "version=stuck@1 event=run_stuck run_s=" in Path(stage.log.name).read_text()
