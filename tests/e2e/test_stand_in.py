"""Who answers while Ray is started anew, and by which table? Everything is real but Ray."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from loadtests.chaos import models
from loadtests.chaos.models import REGISTER
from router.entry import check_chain
from serving import access, launch
from serving.config import parse
from serving.ending import session
from serving.journal.journal import read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


class Client(threading.Thread):
    """What somebody sees of a gateway that has lost Ray, while the test's own thread is the launcher."""

    def __init__(self, place: str, beside: Path) -> None:
        super().__init__(daemon=True)
        self._place, self._beside = place, beside
        self.before = self.after = self.at_last = ("", "")
        self.receipt: dict[str, Any] = {}
        self.pid = 0

    def run(self) -> None:
        try:
            self._look()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def _look(self) -> None:
        self._tell("die")
        self.before = self._ask()
        self._tell("start")
        self._tell("change")
        _wait((self._beside / "receipt").exists)
        self.receipt = json.loads((self._beside / "receipt").read_text())
        self.after = self._ask()
        [name] = self.receipt["acknowledged"]
        self.pid = int(name.split("-")[2])
        self._tell("on")
        _wait(lambda: not session(self.pid))

    def _tell(self, what: str) -> None:
        (self._beside / what).touch()

    def _ask(self) -> tuple[str, str]:
        """Return which version answered, and why, as the answer says."""
        line = http.client.HTTPConnection(self._place, timeout=60)
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3]}]}
        line.request("POST", f"/v2/models/{REGISTER}/infer", json.dumps(body))
        answer = line.getresponse()
        document = json.loads(answer.read())
        line.close()
        assert answer.status == 200, document
        return document["model_version"], answer.headers["turnout-route"]


def test_while_ray_is_started_anew_one_process_answers_by_the_journal_and_follows_ray_s_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, beside = tmp_path / "models", tmp_path / "beside"
    models.lay_out(repository)
    beside.mkdir()
    monkeypatch.setenv("PRETENDED", str(beside))
    monkeypatch.setattr(launch, "DRIVER", "from tests.pretended import drive; drive()")
    server = dict.fromkeys(("http", "grpc", "metrics", "admin"), "127.0.0.1:0")
    config = parse(
        {
            "server": {**server, "drain_s_max": 2},
            "repository": {"path": str(repository), "state": str(tmp_path / "state"), "models": [REGISTER]},
        }
    )
    clients: list[Client] = []

    def announce(at: str, *_others: str) -> None:
        if not clients:
            clients.append(Client(at, beside))
            clients[0].start()

    launch.run(config, announce)
    [client] = clients
    client.join(60)
    assert client.before[0] == "3", "the newest, since nothing was decided yet"
    assert client.receipt["confirmed"]
    assert client.after == ("1", f"1;{client.receipt['revision']};static")
    entries = read(access.control_folder(config) / access.JOURNAL)
    assert check_chain(entries)[0] == client.receipt["revision"]
    assert sorted({entry.term for entry, _ in entries}) == [1, 2]


def _wait(holds: Any) -> None:
    until_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.01)
