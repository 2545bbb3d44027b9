"""A version on a device behind a real gateway: over HTTP, from being loaded to being unloaded."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

from loadtests.gpubench.simulated import SimulatedAccelerator
from serving.config import Config
from serving.model import ModelSpec
from tests import models
from tests.running import Running, read_answer

MS = 1_000_000
WAYS = 24
"""Requests that are under way at once."""


class Rack:
    """Simulated devices for all versions that a gateway puts on one, and what became of them."""

    def __init__(self, run_ns: Callable[[int], int] = lambda rows: (1 + rows // 32) * MS) -> None:
        self.run_ns = run_ns
        self.made: list[SimulatedAccelerator] = []

    def __call__(self, _session: Any, spec: ModelSpec, _settings: Config) -> SimulatedAccelerator:
        self.made.append(SimulatedAccelerator(self.run_ns, 25e9, self._answer, spec))
        return self.made[-1]

    def _answer(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [inputs["x"] + 1000]


def ask(client: socket.socket, model: str, values: list[float]) -> None:
    """Send a request of one row."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(values)], "data": values}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def answered(client: socket.socket) -> tuple[int, Any]:
    """Return the status, and the values or what it says."""
    status, _, body = read_answer(client)
    said = json.loads(body)
    return status, said["outputs"][0]["data"] if status == 200 else said["error"]


def test_requests_that_come_together_share_runs_on_the_device_and_get_their_own_answers(
    tmp_path: Path,
) -> None:
    models.place(tmp_path / "models", "m", 1, models.identity("FP32", ("N", 4)))
    rack = Rack()
    with Running(tmp_path / "models", tmp_path / "state", accelerate=rack) as running:
        servable = running.gateway.shelf.loaded.servables["m"]["1"]
        assert servable.spec.rows_max == 64, "rows that are independent are batched, however long a run is"
        assert not servable.lane.inline
        clients = [running.connect(60) for _ in range(WAYS)]
        device = rack.made[-1]
        device.batches.clear()
        for turn in range(5):
            for way, client in enumerate(clients):
                ask(client, "m", [float(way), turn, 0, 0])
            for way, client in enumerate(clients):
                assert answered(client) == (200, [1000.0 + way, 1000.0 + turn, 1000, 1000])
        assert sum(device.batches) == 5 * WAYS
        assert len(device.batches) < 5 * WAYS
        for client in clients:
            client.close()
    assert device.closed
    assert [each.closed for each in rack.made] == [True] * len(rack.made)


def test_a_version_is_replaced_while_requests_run_and_its_device_is_given_back(tmp_path: Path) -> None:
    models.place(tmp_path / "models", "m", 1, models.identity("FP32", ("N", 4)))
    rack = Rack()
    with Running(tmp_path / "models", tmp_path / "state", accelerate=rack) as running:
        with running.connect(60) as client:
            ask(client, "m", [1, 2, 3, 4])
            models.place(tmp_path / "next", "m", 2, models.identity("FP32", ("N", 4)))
            (tmp_path / "next" / "m" / "2").rename(tmp_path / "models" / "m" / "2")
            running.refresh()
            assert answered(client) == (200, [1001.0, 1002.0, 1003.0, 1004.0])
            until_s = monotonic() + 60
            while not rack.made[0].closed:
                assert monotonic() < until_s
                sleep(0.01)
            assert not rack.made[1].closed
            ask(client, "m", [5, 6, 7, 8])
            assert answered(client)[0] == 200
        assert sum(rack.made[1].batches) > 0


def test_runs_short_enough_for_the_event_loop_stay_there(tmp_path: Path) -> None:
    models.place(tmp_path / "models", "m", 1, models.identity("FP32", ("N", 4)))
    rack = Rack(lambda _rows: 1000)
    settings = {"engine": {"inline_us_max": 100_000}}
    with Running(tmp_path / "models", tmp_path / "state", settings, accelerate=rack) as running:
        servable = running.gateway.shelf.loaded.servables["m"]["1"]
        assert servable.lane.inline
        assert servable.spec.rows_max == 64
        assert rack.made[-1].closed
        with running.connect(60) as client:
            ask(client, "m", [1, 2, 3, 4])
            assert answered(client) == (200, [1.0, 2.0, 3.0, 4.0]), "by the session itself"


def test_rows_that_depend_on_each_other_go_to_no_slot_and_are_answered(tmp_path: Path) -> None:
    models.place(tmp_path / "models", "m", 1, models.centred())
    rack = Rack()
    with (
        Running(tmp_path / "models", tmp_path / "state", accelerate=rack) as running,
        running.connect(60) as client,
    ):
        assert running.gateway.shelf.loaded.servables["m"]["1"].spec.rows_max == 0
        assert not rack.made
        ask(client, "m", [1, 2, 3, 4])
        assert answered(client) == (200, [0.0, 0.0, 0.0, 0.0])


def test_a_device_that_refuses_a_version_is_why_it_is_not_ready(tmp_path: Path) -> None:
    models.place(tmp_path / "models", "m", 1, models.identity("FP32", ("N", 4)))

    def refuse(_session: Any, _spec: ModelSpec, _settings: Config) -> None:
        raise RuntimeError("it needs 90 GiB, and 80 are free")

    with Running(tmp_path / "models", tmp_path / "state", accelerate=refuse) as running:
        state, reason = running.index()["m", "1"]
        assert (state, reason) == ("UNAVAILABLE", "it needs 90 GiB, and 80 are free")
