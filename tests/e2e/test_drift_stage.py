"""Drift with real processes: replicas that count and are killed, and a control that judges, dies and goes on."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.drift.build import build
from serving.drift.profile_json import to_json
from serving.drift.view import Look, View
from tests import models
from tests.stage import Stage, staged
from tests.talking import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LOOK = Look("x", "input", View.FEATURES, "FP32", (4,))
PROFILE = "/v2/models/register/versions/1/profile"
S_MAX = 90.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.place(folder, "register", 1, models.constant(1))
    return folder


@pytest.fixture
def stage(tmp_path: Path, repository: Path) -> Iterator[Stage]:
    """A control and two replicas."""
    with staged(tmp_path, repository, 2, drift={"enabled": True}) as made:
        yield made


def rows(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, 4)) + shift).astype(np.float32)


def send(stage: Stage, batch: np.ndarray) -> None:
    """Infer rows over a connection of its own, so that it is any replica that answers."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(batch.shape), "data": batch.ravel().tolist()}
    url = f"http://{stage.http}/v2/models/register/infer"
    request = urllib.request.Request(url, json.dumps({"inputs": [tensor]}).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["model_version"] == "1"


def report(stage: Stage) -> Any:
    status, said = stage.ask("GET", "/v2/models/register/drift")
    assert status == 200, said
    return said


def inputs(said: Any) -> Any:
    """Return what is said of the model's input."""
    streams = [each for version in said["versions"] for each in version["streams"]]
    return next((each for each in streams if each["tensor"] == "x"), {"rows": 0, "verdict": None})


def counted(stage: Stage, count: int) -> Any:
    """Return the report once so many rows are counted, and no more than that."""
    assert eventually(lambda: inputs(report(stage))["rows"] >= count, S_MAX)
    said = report(stage)
    assert inputs(said)["rows"] == count
    return said


def comes_to_be(stage: Stage, verdict: str) -> bool:
    """Say whether that becomes the verdict on the input."""
    return eventually(lambda: inputs(report(stage))["verdict"] == verdict, S_MAX)


def put_profile(stage: Stage) -> None:
    """Give version 1 a profile of 20,000 rows."""
    blocks = [{"x": rows(20_000, 1)}]
    made = build("register", "1", "", [LOOK], blocks, categories_max=64, made_at="", source="a test")
    status, said = stage.ask("PUT", PROFILE, to_json(made))
    assert status == 200, said
    assert comes_to_be(stage, "no rows")


def end_control(stage: Stage, how: int) -> None:
    assert stage.control is not None
    stage.control.send_signal(how)
    stage.control.wait(60)


def kill(stage: Stage, name: str) -> None:
    process = stage.replicas.pop(name)
    process.kill()
    process.wait(60)


def test_every_row_is_counted_once_though_replicas_and_the_control_end(stage: Stage) -> None:
    sent = 0

    def send_some(batches: int, size: int) -> None:
        nonlocal sent
        for _ in range(batches):
            send(stage, rows(size, sent))
            sent += size

    send_some(20, 32)
    counted(stage, sent)
    kill(stage, "r0")
    send_some(5, 16)
    counted(stage, sent)
    end_control(stage, signal.SIGTERM)
    stage.start_control()
    counted(stage, sent)
    stage.start_replica("r2")
    send_some(10, 16)
    said = counted(stage, sent)
    for feature in inputs(said)["features"]:
        window = feature["windows"]["start"]
        assert window["n"] == sent
        assert window["mean"] == pytest.approx(0, abs=0.3)
        assert feature["seen"]["quantiles"]["0.5"] == pytest.approx(0, abs=0.5)


def test_a_control_that_is_killed_hears_again_what_it_had_not_written_down(stage: Stage) -> None:
    for number in range(10):
        send(stage, rows(20, number))
    counted(stage, 200)
    end_control(stage, signal.SIGKILL)
    send(stage, rows(20, 77))
    stage.start_control()
    counted(stage, 220)


def test_drift_from_a_profile_is_detected_over_all_replicas_and_outlives_the_control(stage: Stage) -> None:
    put_profile(stage)
    for number in range(20):
        send(stage, rows(64, number))
    assert inputs(counted(stage, 20 * 64))["verdict"] == "no drift"
    for number in range(40):
        send(stage, rows(64, number, 1.5))
    assert comes_to_be(stage, "drift")
    said = counted(stage, 60 * 64)
    [event] = said["events"]
    assert (event["event"], event["tensor"], set(event["features"])) == ("detected", "x", set("0123"))
    end_control(stage, signal.SIGTERM)
    stage.start_control()
    said = counted(stage, 60 * 64)
    assert (said["drifted"], said["events"]) == (True, [event])
    assert stage.ask("DELETE", PROFILE)[1]["profile"] is None
    assert comes_to_be(stage, "no profile")


def test_a_profile_is_made_of_live_rows_though_a_replica_is_killed_meanwhile(stage: Stage) -> None:
    status, said = stage.ask("POST", f"{PROFILE}/freeze", {"rows": 1000})
    assert (status, said["freezing"]) == (200, {"rows": 0, "wanted": 1000}), said
    captures = stage.state / "drift" / "captures"
    assert eventually(lambda: any(captures.iterdir()), S_MAX)
    for number in range(10):
        send(stage, rows(40, number))
    assert eventually(lambda: stage.ask("GET", PROFILE)[1]["freezing"]["rows"] > 0, S_MAX)
    kill(stage, "r1")
    for number in range(40):
        send(stage, rows(40, 100 + number))
    assert eventually(lambda: stage.ask("GET", PROFILE)[1]["profile"] is not None, S_MAX)
    _, said = stage.ask("GET", PROFILE)
    assert (said["profile"]["rows"], said["profile"]["source"]) == (1000, "1000 live requests")
    assert said["freezing"] is None
    assert said["profile"]["digest"] == said["profile"]["digest_now"] != ""
    assert list(captures.iterdir()) == []

    def is_judged() -> bool:
        send(stage, rows(40, 200))  # What comes before a replica has heard of the profile is no part of it.
        return bool(inputs(report(stage))["verdict"] == "no drift")

    assert eventually(is_judged, S_MAX), report(stage)
