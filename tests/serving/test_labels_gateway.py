"""Do labels tell good versions from bad ones on real servers, by real requests, whoever is killed?"""

from __future__ import annotations

import csv
import json
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import cli
from tests import models
from tests.drifting import held_out
from tests.running import Running
from tests.stage import Stage, staged
from tests.talking import Client, eventually, in_json

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHADOW_S_MAX = 120.0


class Asking:
    """Asks for digits, each request with an id of its own, over several connections."""

    def __init__(self, stage: Stage, demo: Path, seed: int, clients: int = 4) -> None:
        self._stage = stage
        images = held_out(demo)
        with np.load(demo / "rows" / "digits.npz") as rows:
            labels = rows["label"][rows["held_out"]]
        self._chosen = np.random.default_rng(seed)
        self._images, self._labels = images, labels
        self._clients = clients
        self.truth: dict[str, int] = {}
        """The label of each request, by its id."""
        self.version: dict[str, str] = {}

    def ask(self, count: int) -> None:
        """Have so many digits read."""
        base = len(self.truth)
        rows = self._chosen.integers(0, len(self._images), count)
        threads = [
            threading.Thread(target=self._ask, args=(base, rows, start)) for start in range(self._clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(self.truth) == base + count

    def _ask(self, base: int, rows: Any, start: int) -> None:
        host, port = self._stage.http.split(":")
        connection = HTTPConnection(host, int(port), timeout=30)
        for at in range(start, len(rows), self._clients):
            id_ = f"digit-{base + at}"
            image = self._images[rows[at]].tolist()
            tensor = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image}
            connection.request("POST", "/v2/models/digits/infer", json.dumps({"id": id_, "inputs": [tensor]}))
            answer = connection.getresponse()
            document = json.loads(answer.read())
            assert answer.status == 200, document
            self.version[id_] = document["model_version"]
            self.truth[id_] = int(self._labels[rows[at]])
        connection.close()

    def labels(self, *, wanted: Callable[[str], bool] = lambda _id: True) -> list[dict[str, Any]]:
        """Return the labels of what was asked."""
        return [{"id": id_, "label": truth} for id_, truth in self.truth.items() if wanted(id_)]


@pytest.fixture
def stage(tmp_path: Path, demo_folder: Path) -> Iterator[Stage]:
    """A control and two replicas of the demo's models."""
    with staged(tmp_path, demo_folder / "models", 2) as made:
        yield made


def give(stage: Stage, labels: Any) -> Any:
    status, said = stage.ask("POST", "/v2/models/digits/feedback", {"labels": labels})
    assert status == 200, said
    return said


def quality(stage: Stage, role: str = "live") -> dict[str, Any]:
    """Return what is known, by version."""
    status, said = stage.ask("GET", "/v2/models/digits/quality")
    assert status == 200, said
    return {each["version"]: each for each in said["versions"] if each["role"] == role}


def by_class(version: Any, kind: str) -> dict[str, float]:
    return {each["name"]: each[kind]["rate"] for each in version["classes"]}


def test_version_9_is_found_to_take_sevens_for_ones(stage, demo_folder):
    stage.change("digits", "split", weights={"9": "50%", "8": "50%"})
    asking = Asking(stage, demo_folder, seed=1)
    asking.ask(2000)
    said = give(stage, asking.labels())
    assert (said["joined"], said["unmatched"], said["missing"]) == (2000, 0, [])
    known = quality(stage)
    for version in ("8", "9"):
        assert known[version]["labelled"] == known[version]["answered"]
        assert known[version]["labelled"] == list(asking.version.values()).count(version)
    missed = {
        version: by_class(known[version], "false_negative") for version in known if known[version]["labelled"]
    }
    taken = {
        version: by_class(known[version], "false_positive") for version in known if known[version]["labelled"]
    }
    assert missed["9"]["seven"] > 0.25
    assert missed["8"]["seven"] < 0.1
    assert max(missed["9"], key=missed["9"].__getitem__) == "seven"
    assert max(taken["9"], key=taken["9"].__getitem__) == "one"
    seven = next(each for each in known["9"]["classes"] if each["name"] == "seven")["false_negative"]
    good = next(each for each in known["8"]["classes"] if each["name"] == "seven")["false_negative"]
    assert seven["low"] > good["high"]
    assert give(stage, asking.labels())["repeated"] == 2000
    assert quality(stage)["9"]["labelled"] == known["9"]["labelled"]


def test_a_version_whose_labels_do_not_come_is_seen_to_lack_them(stage, demo_folder):
    stage.change("digits", "split", weights={"8": "50%", "7": "50%"})
    asking = Asking(stage, demo_folder, seed=2)
    asking.ask(400)
    give(stage, asking.labels(wanted=lambda id_: asking.version[id_] == "8"))
    known = quality(stage)
    assert known["8"]["coverage"]["rate"] == 1.0
    assert eventually(lambda: quality(stage)["7"]["coverage"]["of"] > 100)
    assert quality(stage)["7"]["coverage"]["rate"] == 0.0
    assert quality(stage)["7"]["accuracy"] is None


def test_what_was_acknowledged_outlives_a_replica_and_the_control(stage, demo_folder):
    asking = Asking(stage, demo_folder, seed=3, clients=8)
    asking.ask(600)
    some = list(asking.truth)[:200]
    said = give(stage, asking.labels(wanted=lambda id_: id_ in set(some)))
    assert said["joined"] == 200
    stage.replicas["r1"].send_signal(signal.SIGKILL)
    stage.replicas.pop("r1").wait(60)
    assert eventually(lambda: len(stage.ask("GET", "/v2/traffic")[1]["replicas"]) == 1)
    assert quality(stage)["8"]["labelled"] == 200
    rest = give(stage, asking.labels())
    assert rest["missing"] == []
    assert rest["joined"] + rest["repeated"] + rest["unmatched"] == 600
    assert rest["unmatched"] > 0
    total = 200 + rest["joined"]
    assert quality(stage)["8"]["labelled"] == total
    time.sleep(1.5)  # Written down once a second.
    assert stage.control is not None
    stage.control.send_signal(signal.SIGKILL)
    stage.control.wait(60)
    stage.start_control()
    assert eventually(lambda: quality(stage).get("8", {}).get("labelled") == total)
    asking.ask(50)
    assert eventually(lambda: give(stage, asking.labels())["joined"] == 50)
    assert quality(stage)["8"]["labelled"] == total + 50


def test_a_shadow_is_judged_by_the_labels_of_the_same_requests(tmp_path, demo_folder):
    with staged(tmp_path, demo_folder / "models", 1) as stage:
        stage.change("digits", "shadow", shadows={"9": "100%"})
        asking = Asking(stage, demo_folder, seed=4)

        def shadowed() -> int:
            return int(quality(stage, "shadow").get("9", {"answered": 0})["answered"])

        asking.ask(10)
        assert eventually(lambda: shadowed() > 0, SHADOW_S_MAX)
        asking.ask(1000)
        assert eventually(lambda: shadowed() > 900, SHADOW_S_MAX)
        give(stage, asking.labels())
        status, said = stage.ask("GET", "/v2/models/digits/quality?version=9")
        assert status == 200
        (pair,) = said["pairs"]
        assert (pair["primary"], pair["shadow"]) == ("8", "9")
        assert pair["labels"] > 900
        assert pair["only_shadow_wrong"] > pair["only_primary_wrong"]
        assert pair["evidence_worse"] > 2
        assert by_class(quality(stage, "shadow")["9"], "false_negative")["seven"] > 0.25


def test_a_table_of_labels_is_joined_over_all_replicas_by_the_command(
    tmp_path, demo_folder, monkeypatch, capsys
):
    with staged(tmp_path, demo_folder / "models", 2) as stage:
        asking = Asking(stage, demo_folder, seed=5, clients=8)
        asking.ask(2_000)
        path = tmp_path / "labels.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "label"])
            writer.writeheader()
            writer.writerows(asking.labels())
        monkeypatch.setenv("TURNOUT_TOKEN", (stage.state / "token").read_text().strip())
        code = cli.main(["feedback", "digits", "--from", str(path), "--admin", f"http://{stage.admin}"])
        assert code == 0
        assert capsys.readouterr().out == "digits: 2,000 labels: 2,000 joined\n"
        assert quality(stage)["8"]["accuracy"]["of"] == 2_000


def test_labels_of_a_version_that_gives_scores_say_how_far_it_is_off(tmp_path):
    models.place(tmp_path / "models", "register", 1, models.heavy(1))
    with staged(tmp_path, tmp_path / "models", 1) as stage:
        tensor = {"name": "x", "datatype": "FP32", "shape": [3, 16], "data": [0.1] * 48}
        body = json.dumps({"id": "three", "inputs": [tensor]}).encode()
        url = f"http://{stage.http}/v2/models/register/infer"
        with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=30) as answer:
            scores = json.load(answer)["outputs"][0]["data"]
        labels = [{"id": "three", "row": row, "score": scores[row] + 2.0} for row in range(3)]
        status, said = stage.ask("POST", "/v2/models/register/feedback", {"labels": labels})
        assert (status, said["joined"]) == (200, 3)
        _, said = stage.ask("GET", "/v2/models/register/quality")
        assert said["versions"][0]["scores"]["absolute"] == pytest.approx(2.0, rel=1e-3)


def test_the_metrics_count_what_labels_can_find_and_what_not(tmp_path):
    models.place(tmp_path / "models", "m", 1, models.mlp())
    with Running(tmp_path / "models", tmp_path / "state") as running, Client(running) as client:
        rows = np.ones((2, 16), np.float32)
        for number in range(20):
            assert client.ask(in_json("m", rows, id=f"{number}")).status == 200
        assert client.ask(in_json("m", rows)).status == 200
        assert client.ask(in_json("m", rows[:, :3], id="bad")).status == 400

        def shown(family: str) -> dict[str, float]:
            with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=10) as answer:
                lines = re.findall(rf"^{family}(?:\{{(.*)\}})? (\S+)$", answer.read().decode(), re.MULTILINE)
            return {labels: float(value) for labels, value in lines}

        def answers(kind: str) -> float:
            wanted = f'kind="{kind}",model="m",role="live",version="1"'
            return shown("turnout_answers_total").get(wanted, 0)

        assert eventually(lambda: (answers("named"), answers("unnamed"), answers("lost")) == (40, 2, 0))
        assert shown("turnout_answers_remembered") == {"": 40.0}
        assert shown("turnout_answers_remembered_bytes")[""] > 0


def test_nothing_is_remembered_where_that_is_switched_off(tmp_path):
    models.place(tmp_path / "models", "m", 1, models.mlp())
    settings = {"labels": {"enabled": False}}
    with Running(tmp_path / "models", tmp_path / "state", settings) as running, Client(running) as client:
        assert client.ask(in_json("m", np.ones((1, 16), np.float32), id="a")).status == 200
        assert running.gateway.labels.taps("m", "1") == []
        assert running.gateway.labels.seen() == {}
