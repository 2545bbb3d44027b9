"""A candidate that is bad goes back and one that is good goes live, without a person, whoever is killed meanwhile.

Real traffic by several clients, labels that come late, two replicas, a control and a receiver of alerts, each
of them a process that is killed in the middle.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from router.entry import check_chain
from serving.journal.journal import read
from serving.rollout.recompute import recompute
from tests.conftest import ROOT
from tests.stage import Stage
from tests.talking import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CLIENTS = 4
REQUESTS_PER_S = 200
"""Of each client."""
LABEL_DELAY_S = 1.5
OVER_S_MAX = 90.0
METRICS = """
  metrics:
    - {metric: request-failure, acceptable: 5%}
    - {metric: wrong, critical: true}
    - {metric: false-negative, class: seven, critical: true}
    - {metric: false-positive, class: one}
"""


class Callers:
    """Clients that ask for digits, and somebody who says a while later what they were."""

    def __init__(self, stage: Stage, demo: Path) -> None:
        with np.load(demo / "rows" / "digits.npz") as rows:
            held_out = rows["held_out"]
            self._images, self._labels = rows["image"][held_out], rows["label"][held_out]
        self._stage = stage
        self._over = threading.Event()
        self._late: deque[tuple[float, str, int]] = deque()
        self.statuses: dict[int, int] = {}
        self.versions: dict[str, int] = {}
        self.given = self.broken = 0
        self.shift = 0
        """What the world adds to every label."""
        works = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        self._threads = [*works, threading.Thread(target=self._tell)]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(30)

    def _ask(self, number: int) -> None:
        host, port = self._stage.http.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        rng = np.random.default_rng(number)
        for count in range(1_000_000):
            if self._over.wait(1 / REQUESTS_PER_S):
                break
            at = int(rng.integers(0, len(self._images)))
            id_ = f"{number}-{count}"
            try:
                connection.request("POST", "/v2/models/digits/infer", *_binary(self._images[at], id_))
                answer = connection.getresponse()
                document = json.loads(answer.read())
            except (OSError, http.client.HTTPException):  # The replica that had it was killed.
                self.broken += 1
                connection.close()
                continue
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            if answer.status == 200:
                version = document["model_version"]
                self.versions[version] = self.versions.get(version, 0) + 1
                self._late.append(
                    (time.monotonic() + LABEL_DELAY_S, id_, (int(self._labels[at]) + self.shift) % 10)
                )
        connection.close()

    def _tell(self) -> None:
        while not self._over.wait(0.25):
            due = []
            while self._late and self._late[0][0] <= time.monotonic():
                due.append(self._late.popleft())
            if not due:
                continue
            labels = [{"id": id_, "label": label} for _, id_, label in due]
            status, said = self._stage.ask("POST", "/v2/models/digits/feedback", {"labels": labels}, 5)
            if status == 200:
                self.given += said["joined"]
            else:  # No control, or no replica; labels can be given again.
                self._late.extendleft(reversed(due))


def _binary(image: np.ndarray, id_: str) -> tuple[bytes, dict[str, str]]:
    row = image.astype(np.float32)
    tensor: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": [1, row.size]}
    tensor["parameters"] = {"binary_data_size": row.nbytes}
    outputs = [{"name": "label"}, {"name": "probabilities"}]
    head = json.dumps({"id": id_, "inputs": [tensor], "outputs": outputs}).encode()
    return head + row.tobytes(), {"inference-header-content-length": str(len(head))}


class Pager:
    """A receiver of alerts that can be killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.file, self.secret = folder / "received", folder / "secret"
        self.secret.write_text("a secret of thirty-two characters or so\n")
        self.secret.chmod(0o600)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        words = ["receive", str(self.port), str(self.file), str(self.secret)]
        command = [sys.executable, "-m", "tests.alerting", *words]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def events(self, kind: str) -> list[Any]:
        """What it took of a kind; each once, by its id."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        told = [json.loads(line) for line in lines]
        return [each for each in told if each["type"] == f"dev.turnout.{kind}"]

    def config(self) -> dict[str, Any]:
        place = f"127.0.0.1:{self.port}"
        return {
            "receivers": [{"name": "pager", "url": f"http://{place}/hook", "events": ["*"]}],
            "allow": [place],
            "secret_file": str(self.secret),
            "retry_s_min": 0.1,
            "retry_s_max": 0.5,
        }


@pytest.fixture
def pager(tmp_path: Path) -> Iterator[Pager]:
    made = Pager(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def stage(tmp_path: Path, demo_folder: Path, pager: Pager) -> Iterator[Stage]:
    """A control and two replicas; version 7 of the digits answers."""
    with Stage(tmp_path, demo_folder / "models", alerts=pager.config()) as made:
        made.start_control()
        for name in ("r0", "r1"):
            made.start_replica(name)
        made.change("digits", "split", weights={"7": "100%"})
        yield made


def document(candidate: int, weight: str) -> str:
    return f"""
apiVersion: turnout/v1
kind: Rollout
metadata: {{name: digits-{candidate}}}
spec:
  model: digits
  candidate: {candidate}
  strategy:
    canary:
      steps:
        - setMirror: 100%
        - pause: {{duration: 2s}}
        - setWeight: {weight}
        - analysis: {{within: 10m}}
        - promote
  watch: 60s
{METRICS}"""


def begin(stage: Stage, candidate: int, weight: str) -> None:
    body = {"document": document(candidate, weight), "by": "ann", "why": "a test"}
    status, said = stage.ask("POST", "/v2/models/digits/rollout", body)
    assert status == 200, said


def rollout(stage: Stage) -> Any:
    """Return how the rollout stands; nothing while there is no control."""
    status, said = stage.ask("GET", "/v2/models/digits/rollout", timeout_s=5)
    return said if status == 200 else None


def phase(stage: Stage) -> str:
    said = rollout(stage)
    return "" if said is None else str(said["rollout"]["phase"])


def kill_one_after_the_other(stage: Stage, pager: Pager) -> None:
    """Kill the control, a replica and the receiver, and start each again."""
    assert stage.control is not None
    stage.control.send_signal(signal.SIGKILL)
    stage.control.wait(60)
    pager.kill()
    time.sleep(0.5)
    stage.start_control()
    replica = stage.replicas.pop("r0")
    replica.kill()
    replica.wait(60)
    time.sleep(0.5)
    stage.start_replica("r0")
    pager.start()


def all_recomputes(stage: Stage) -> int:
    """Judge every verdict of the journal again, and return how many there are."""
    stored = read(stage.state / "journal.sqlite")
    check_chain(stored)
    documents = [entry.document()["change"].get("rollout") for entry, _ in stored]
    verdicts = [each["verdict"] for each in documents if each and each["verdict"]]
    for verdict in verdicts:
        assert recompute(verdict).differences == ()
    return len(verdicts)


def test_a_bad_candidate_goes_back_and_a_good_one_goes_live_whoever_is_killed(
    stage: Stage, demo_folder: Path, pager: Pager
) -> None:
    with Callers(stage, demo_folder) as callers:
        assert eventually(lambda: callers.given > 400), (callers.statuses, callers.given)

        begin(stage, 9, "20%")
        assert eventually(lambda: callers.versions.get("9", 0) > 20, 60), rollout(stage)
        kill_one_after_the_other(stage, pager)
        assert eventually(lambda: phase(stage) == "Degraded", OVER_S_MAX), rollout(stage)
        said = rollout(stage)
        assert (said["rollout"]["reason"], said["route"]) == ("AnalysisFailed", "7=100%"), said["words"]
        assert said["history"][-1]["by"] == "turnout"
        verdict = said["rollout"]["verdict"]
        assert verdict["word"] == "Failed"
        assert set(verdict["quality"]) == {"7", "9"}, "it says how version 7 does on the same requests"
        assert eventually(lambda: len(pager.events("rollback.completed")) == 1)
        [alert] = pager.events("rollback.completed")
        assert alert["revision"] == said["history"][-1]["revision"]
        assert verdict["message"] in json.dumps(alert["data"])
        assert eventually(lambda: len(pager.events("rollback.advised")) == 1, 60)
        [advised] = pager.events("rollback.advised")
        assert (advised["data"]["current"], advised["data"]["target"]) == ("9", "7")
        assert advised["data"]["reasons"]
        before = callers.versions["9"]

        begin(stage, 8, "50%")
        assert eventually(lambda: callers.versions.get("8", 0) > 20, 60), rollout(stage)
        kill_one_after_the_other(stage, pager)
        assert eventually(lambda: phase(stage) == "Healthy", OVER_S_MAX), rollout(stage)
        said = rollout(stage)
        assert said["route"] == "8=100%"
        verdict = said["rollout"]["verdict"]
        assert verdict["word"] == "Successful"
        assert all(each["speaks"] for each in verdict["found"]["metrics"] if each["name"] in verdict["asked"])
        assert eventually(lambda: len(pager.events("rollout.promoted")) == 1)
        assert callers.versions["9"] == before, "nobody is answered by what was rolled back"
        assert len(pager.events("rollback.completed")) == 1
    assert all_recomputes(stage) >= 4
    assert set(callers.statuses) <= {200, 503}, callers.statuses
    assert callers.broken <= 4 * CLIENTS, "only requests under way on what was killed are lost"
    with suppress(KeyError):
        assert callers.statuses[503] < 50


def test_a_version_that_turns_bad_after_its_promotion_goes_back_and_is_to_be_trained_anew(
    stage: Stage, demo_folder: Path, pager: Pager
) -> None:
    with Callers(stage, demo_folder) as callers:
        begin(stage, 8, "50%")
        assert eventually(lambda: phase(stage) == "Healthy", OVER_S_MAX), rollout(stage)
        labelled = callers.given
        assert eventually(lambda: callers.given > labelled + 1500)
        assert phase(stage) == "Healthy", rollout(stage)
        callers.shift = 1
        assert eventually(lambda: phase(stage) == "Degraded", OVER_S_MAX), rollout(stage)
        said = rollout(stage)
        assert (said["rollout"]["reason"], said["route"]) == ("AnalysisFailed", "7=100%"), said["words"]
        assert eventually(lambda: len(pager.events("rollback.completed")) == 1)
        assert eventually(lambda: len(pager.events("quality.degraded")) >= 1)
        assert eventually(lambda: len(pager.events("retrain.requested")) == 1)
    assert all_recomputes(stage) >= 3
