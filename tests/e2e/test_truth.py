"""Under load from many clients, is every answer its own request's, while versions come, go, and all ends?"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Self

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from tests.e2e.asking import ask, same
from tests.models import constant, identity, place, spinning
from tests.running import Running, post, read_answer

THREADS = 32
RUN_S = 2.5
CHANGES_MIN = 4
"""How often the second version must have come and gone for the test to mean something."""
FEATURES = 4


@dataclass
class Crowd:
    """Threads that work until they are told to stop; what they raise is kept for the test to see."""

    work: Callable[[int], int]
    """One round of client number n; returns how many requests it asked."""
    answered: int = 0
    faults: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(THREADS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)

    def _run(self, number: int) -> None:
        answered = 0
        try:
            while not self._over.is_set():
                answered += self.work(number)
        except Exception as error:  # It belongs to the test, not to a thread's traceback.
            with self._lock:
                self.faults.append(f"{type(error).__name__}: {error}")
        with self._lock:
            self.answered += answered


@pytest.fixture(params=[300, 0], ids=["on the loop", "in threads"])
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Run a gateway whose models run on the event loop where that is worth it, or never."""
    models = tmp_path / "models"
    batched = "max_batch_size: 64"
    place(models, "echo", 1, identity("FP32", ["N", FEATURES]), batched)
    place(models, "fraud", 7, constant(7), "version_policy { all {} }")
    place(models, "slow", 1, spinning())
    settings = {"engine": {"inline_us_max": request.param}, "server": {"drain_s_max": 30}}
    with Running(models, tmp_path / "state", settings) as running:
        yield running


def test_no_answer_is_another_s_and_its_version_is_true_while_versions_come_and_go(running, tmp_path):
    local = threading.local()
    seen: set[str] = set()
    rounds = [0] * THREADS

    def work(number: int) -> int:
        if not hasattr(local, "client"):
            local.client = InferenceServerClient(running.http)
        rounds[number] += 1
        x = _its_own(number, rounds[number])
        echoed = ask(local.client, "echo", {"x": x}, request_id=f"{number}-{rounds[number]}")
        assert echoed.get_response()["id"] == f"{number}-{rounds[number]}"
        assert same(echoed.as_numpy("y"), x), "somebody else's numbers"
        fraud = ask(local.client, "fraud", {"x": x})
        version = fraud.get_response()["model_version"]
        assert same(fraud.as_numpy("y"), np.full(x.shape, float(version), np.float32)), (
            f"not {version}'s numbers"
        )
        seen.add(version)
        return 2

    before = running.gateway.shelf.loaded.servables["echo"]["1"].ledger.snapshot()
    with Crowd(work) as crowd:
        changes = _come_and_go(running, tmp_path / "models")
    assert crowd.faults == []
    assert changes >= CHANGES_MIN and seen == {"7", "8"}
    assert crowd.answered > THREADS * changes
    after = running.gateway.shelf.loaded.servables["echo"]["1"].ledger.snapshot()
    assert after.runs - before.runs < crowd.answered // 2, "nothing shared a run"


def _its_own(number: int, turn: int) -> np.ndarray:
    """Return one to three rows that no other request has."""
    rows = 1 + (number + turn) % 3
    x = np.empty((rows, FEATURES), np.float32)
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = number, turn, np.arange(rows), number * turn
    return x


def _come_and_go(running: Running, models: Path) -> int:
    """Load and unload a second version again and again; return how often."""
    changes, until_s = 0, time.monotonic() + RUN_S
    while time.monotonic() < until_s or changes < CHANGES_MIN:
        place_version(models, 8)
        running.refresh()
        assert running.index()["fraud", "8"] == ("READY", "")
        time.sleep(0.05)
        rmtree(models / "fraud" / "8")
        running.refresh()
        assert "8" not in running.gateway.shelf.loaded.servables["fraud"]
        time.sleep(0.05)
        changes += 1
    return changes


def place_version(models: Path, version: int) -> None:
    """Add a version to the model `fraud`."""
    spare = models.parent / "spare"
    place(spare, "fraud", version, constant(version))
    (spare / "fraud" / str(version)).rename(models / "fraud" / str(version))
    rmtree(spare)


# --- Draining.


def test_no_request_is_lost_when_the_gateway_drains_under_load(running):
    told = [False] * THREADS
    local = threading.local()

    def work(number: int) -> int:
        if told[number]:
            time.sleep(0.005)
            return 0
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(running.http, timeout=10)
        x = _its_own(number, 1)
        local.connection.request("POST", "/v2/models/echo/infer", _body(x), {"X-Number": str(number)})
        answer = local.connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["outputs"][0]["data"] == x.ravel().tolist()
        told[number] = answer.will_close
        return 1

    with Crowd(work) as crowd:
        time.sleep(0.4)
        began_s = time.monotonic()
        running.drain()
        took_s = time.monotonic() - began_s
    assert crowd.faults == []
    assert crowd.answered > THREADS and all(told)
    assert took_s < 20  # Of the 30 s that it may take; all clients were busy, none had to be waited for.


def _body(x: np.ndarray) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def test_a_run_under_way_is_finished_while_the_gateway_drains(running):
    with running.connect() as busy, running.connect() as idle:
        idle.sendall(post("/v2/models/echo/infer", _body(_its_own(1, 1)), close=False))
        assert read_answer(idle)[1].get("connection") != "close"
        rounds = np.full((1, FEATURES), 2e5, np.float32)
        busy.sendall(post("/v2/models/slow/infer", _body(rounds), close=False))
        time.sleep(0.05)  # It takes some 0.2 s, on the loop or in a thread.
        running.drain()
        status, headers, body = read_answer(busy)
        assert status == 200 and headers.get("connection", "close") == "close"
        assert json.loads(body)["outputs"][0]["data"] == rounds.ravel().tolist()
        assert idle.recv(1) == b""


def test_a_gateway_that_drains_takes_no_new_connection(running):
    running.drain()
    with pytest.raises(ConnectionRefusedError):
        running.connect()
