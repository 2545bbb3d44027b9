"""Traffic between versions, with real processes: a control and replicas that are stopped, killed and replaced."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.stage import Stage, staged
from tests.talking import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROW = [1.0, 2.0, 3.0, 4.0]
SHADOW_S_MAX = 240.0
"""A process of the lowest rank may have to wait for all others."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1, 2 and 3 of a model whose answer is its version; 3 is not loaded unless it is needed."""
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2, 3):
        place = folder / "register" / str(version)
        place.mkdir(parents=True)
        models.onnx.save(models.constant(version), place / "model.onnx")
    (folder / "register" / "config.pbtxt").write_text("version_policy { specific { versions: [ 1, 2 ] } }\n")
    return folder


@pytest.fixture
def stage(tmp_path: Path, repository: Path) -> Iterator[Stage]:
    """A control and two replicas."""
    with staged(tmp_path, repository, 2) as made:
        yield made


def answered_by(stage: Stage, *headers: tuple[str, str], path: str = "") -> tuple[str, str]:
    """Return which version answered and what the route header says of it, having checked that it is true."""
    document, route = stage.infer("register", ROW, *headers, path=path)
    version = document["model_version"]
    assert document["outputs"][0]["data"] == [float(version)] * 4
    assert route.split(";")[0] == version
    return version, route


def test_the_first_versions_found_are_adopted_and_the_journal_says_so(stage: Stage) -> None:
    assert answered_by(stage) == ("2", "2;1;static")
    _, history = stage.ask("GET", "/v2/models/register/traffic/history")
    [entry] = history["entries"]
    assert (entry["verb"], entry["by"], entry["to"]) == ("adopt", "turnout", "2=100%")


def test_a_change_holds_for_every_request_that_comes_after_its_receipt(stage: Stage) -> None:
    for target in ("1", "2", "1"):
        receipt = stage.change("register", "split", weights={target: "100%"})
        assert receipt["confirmed"]
        assert sorted(receipt["acknowledged"]) == ["r0", "r1"]
        assert {answered_by(stage)[0] for _ in range(30)} == {target}
    assert answered_by(stage)[1] == f"1;{receipt['revision']};static"


def test_a_split_is_met_and_told(stage: Stage) -> None:
    stage.change("register", "split", weights={"2": "30%", "1": "70%"})
    routes = [answered_by(stage) for _ in range(400)]
    share = Counter(version for version, _ in routes)["2"] / 400
    assert 0.3 - 0.12 < share < 0.3 + 0.12  # More than five standard deviations.
    assert {route.split(";")[2] for _, route in routes} == {"split"}
    assert eventually(
        lambda: sum(stage.ask("GET", "/v2/models/register/traffic")[1]["split"]["counts"].values()) == 400
    )
    standing = stage.ask("GET", "/v2/models/register/traffic")[1]
    assert standing["split"]["verdict"] == "as configured"
    assert {each["version"]: each["weight_bp"] for each in standing["shares"]} == {"2": 3000, "1": 7000}


def test_callers_stay_with_their_version_on_every_replica(stage: Stage) -> None:
    stage.change("register", "stick", keys=["header:x-user-id"], salt="a test")
    stage.change("register", "split", weights={"2": "50%", "1": "50%"})
    first = {user: answered_by(stage, ("x-user-id", str(user))) for user in range(40)}
    assert {version for version, _ in first.values()} == {"1", "2"}
    assert {route.split(";")[2] for _, route in first.values()} == {"sticky"}
    stage.change("register", "split", weights={"2": "80%", "1": "20%"})
    for user, (version, _) in first.items():
        now = answered_by(stage, ("x-user-id", str(user)))[0]
        assert now == "2" or version == "1"


def test_a_request_may_name_a_version_or_an_alias_of_no_weight(stage: Stage) -> None:
    stage.change("register", "alias", alias="challenger", version="1")
    assert answered_by(stage)[0] == "2"
    assert answered_by(stage, ("x-turnout-version", "1"))[1].endswith(";named")
    assert answered_by(stage, ("x-turnout-alias", "challenger"))[0] == "1"
    assert answered_by(stage, path="/versions/1")[0] == "1"
    document = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROW}],
        "parameters": {"turnout_alias": "challenger"},
    }
    url = f"http://{stage.http}/v2/models/register/infer"
    with urllib.request.urlopen(url, json.dumps(document).encode(), timeout=10) as answer:
        assert json.load(answer)["model_version"] == "1"


def test_what_is_not_loaded_is_loaded_before_it_gets_traffic(stage: Stage) -> None:
    receipt = stage.change("register", "split", weights={"3": "100%"})
    assert receipt["confirmed"]
    assert {answered_by(stage)[0] for _ in range(20)} == {"3"}


def test_what_cannot_be_loaded_changes_nothing(stage: Stage) -> None:
    status, answer = stage.ask(
        "POST", "/v2/models/register/traffic/split", {"weights": {"9": "5%", "2": "95%"}, "why": "a test"}
    )
    assert status == 409
    assert "register@9: it is not in the repository" in answer["error"]
    assert answered_by(stage)[1] == "2;1;static"


def test_a_rollback_goes_to_what_served_well_and_loads_nothing(stage: Stage) -> None:
    stage.change("register", "split", weights={"1": "100%"})
    stage.change("register", "split", weights={"3": "5%", "1": "95%"})
    receipt = stage.change("register", "rollback")
    assert receipt["route"] == "1=100%"
    assert "prepare" in receipt["steps_ms"]
    assert {answered_by(stage)[0] for _ in range(20)} == {"1"}
    status, answer = stage.ask("POST", "/v2/models/register/traffic/rollback", {"to": "9"})
    assert status == 409
    assert "register@9 is not ready, and a rollback loads nothing; ready are" in answer["error"]


def test_the_undo_of_a_receipt_restores_the_route(stage: Stage) -> None:
    stage.change("register", "split", weights={"2": "40%", "1": "60%"})
    receipt = stage.change("register", "promote", version="1")
    revision = int(receipt["undo"].split()[-1])
    assert stage.change("register", "rollback", to_revision=revision)["route"] == "2=40% 1=60%"


def test_a_decision_that_was_based_on_another_revision_is_refused(stage: Stage) -> None:
    body = {"weights": {"1": "100%"}, "why": "a test", "if_revision": 0}
    status, answer = stage.ask("POST", "/v2/models/register/traffic/split", body)
    assert (status, "revision 1 is in force, not 0" in answer["error"]) == (412, True)
    receipt = stage.change("register", "split", weights={"1": "100%"}, dry_run=True)
    assert (receipt["dry_run"], receipt["confirmed"]) == (True, False)
    assert answered_by(stage)[1] == "2;1;static"
    again = stage.change("register", "split", weights={"2": "100%"})
    assert (again["unchanged"], again["revision"], again["confirmed"]) == (True, 1, True)


def test_a_brake_works_without_a_control_and_shows_with_one(stage: Stage) -> None:
    stage.change("register", "split", weights={"2": "50%", "1": "50%"})
    assert stage.control is not None
    stage.control.kill()
    stage.control.wait(60)
    brake = stage.state / "brake" / "register"
    brake.write_text("1")
    assert eventually(lambda: {answered_by(stage)[0] for _ in range(20)} == {"1"})
    assert answered_by(stage)[1].endswith(";brake")
    stage.start_control()
    assert eventually(
        lambda: stage.ask("GET", "/v2/models/register/traffic")[1]["brakes"] == {"r0": "1", "r1": "1"}
    )
    brake.unlink()
    assert eventually(lambda: {answered_by(stage)[0] for _ in range(20)} == {"1", "2"})


def test_data_goes_on_while_the_control_is_dead_and_a_new_one_knows_everything(stage: Stage) -> None:
    receipt = stage.change("register", "split", weights={"1": "100%"})
    assert stage.control is not None
    stage.control.kill()
    stage.control.wait(60)
    assert answered_by(stage)[1] == f"1;{receipt['revision']};static"
    stage.start_control()
    again = stage.change("register", "split", weights={"2": "100%"})
    assert (again["confirmed"], again["killed"], sorted(again["acknowledged"])) == (True, [], ["r0", "r1"])
    assert again["revision"] == receipt["revision"] + 1
    assert answered_by(stage)[0] == "2"


def test_a_replica_that_does_not_answer_is_ended_and_then_the_change_is_certain(stage: Stage) -> None:
    stage.replicas["r1"].send_signal(signal.SIGSTOP)
    receipt = stage.change("register", "split", weights={"1": "100%"})
    assert (receipt["acknowledged"], receipt["killed"], receipt["confirmed"]) == (["r0"], ["r1"], True)
    assert stage.replicas.pop("r1").wait(60) == -signal.SIGKILL
    assert {answered_by(stage)[0] for _ in range(20)} == {"1"}


def test_a_replica_is_not_ready_before_it_has_the_table_and_what_it_needs(stage: Stage) -> None:
    stage.change("register", "split", weights={"3": "100%"})
    stage.start_replica("r2")
    for name in ("r0", "r1"):
        stage.replicas.pop(name).kill()
    assert eventually(lambda: len(stage.ask("GET", "/v2/traffic")[1]["replicas"]) == 1)
    assert {answered_by(stage)[0] for _ in range(10)} == {"3"}


STEPS = [(step, atomic) for step in ("prepare", "journal", "publish", "receipt") for atomic in (False, True)]


@pytest.mark.parametrize(("step", "atomic"), [*STEPS, ("hold", True)])
def test_a_control_that_dies_in_any_step_leaves_the_change_done_or_not_at_all(
    tmp_path: Path, repository: Path, step: str, atomic: bool
) -> None:
    with Stage(tmp_path, repository) as stage:
        stage.start_control(die_at=step)
        stage.begin_replica("r0")
        stage.start_replica("r1")
        eventually((stage.folder / "r0.ready").exists)
        (stage.folder / "die").touch()
        body = {"weights": {"1": "100%"}, "why": "a test", "atomic": atomic}
        status, _ = stage.ask("POST", "/v2/models/register/traffic/split", body)
        assert status == 0
        assert stage.control is not None
        assert stage.control.wait(60) == -signal.SIGKILL
        (stage.folder / "die").unlink()
        stage.start_control()
        done = step in ("publish", "receipt")
        eventually(lambda: all(each["connected"] for each in stage.ask("GET", "/v2/traffic")[1]["replicas"]))
        expected = "1" if done else "2"
        assert eventually(lambda: {answered_by(stage)[0] for _ in range(20)} == {expected})
        standing = stage.ask("GET", "/v2/models/register/traffic")[1]
        assert standing["route"] == f"{expected}=100%"
        assert stage.change("register", "split", weights={"2": "10%", "1": "90%"}, atomic=atomic)["confirmed"]


def test_an_atomic_change_loses_no_request(stage: Stage) -> None:
    failures: list[Any] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                answered_by(stage)
            except Exception as error:  # Whatever it is, it is a failure.
                failures.append(error)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    for target in ("1", "2") * 10:
        receipt = stage.change("register", "split", weights={target: "100%"}, atomic=True)
        assert receipt["confirmed"]
        assert "hold" in receipt["steps_ms"]
    over.set()
    for each in clients:
        each.join(20)
    assert failures == []


def test_a_replica_that_lost_its_control_stops_answering_where_that_is_asked_for(
    tmp_path: Path, repository: Path
) -> None:
    with staged(tmp_path, repository, 1, lost_control="fence", lease_s=0.6) as stage:
        assert answered_by(stage)[0] == "2"
        assert stage.control is not None
        stage.control.kill()
        stage.control.wait(60)

        def refused() -> bool:
            try:
                answered_by(stage)
            except urllib.error.HTTPError as error:
                return error.code == 503
            return False

        assert eventually(refused)
        stage.start_control()
        assert eventually(lambda: not refused())
        time.sleep(1.0)
        assert answered_by(stage)[0] == "2"


def test_a_newer_version_waits_or_takes_over_as_configured(tmp_path: Path) -> None:
    for new_versions, answers in (("wait", "1"), ("take", "2")):
        folder = tmp_path / new_versions
        place = models.place(
            folder / "models", "register", 1, models.constant(1), "version_policy { all { } }"
        )
        with Stage(folder, folder / "models", {"new_versions": new_versions}) as stage:
            stage.start_control()
            stage.start_replica("r0")
            assert answered_by(stage)[0] == "1"
            (place / "2").mkdir()
            models.onnx.save(models.constant(2), place / "2" / "model.onnx")
            stage.replicas.pop("r0").kill()
            stage.start_replica("r1")
            assert eventually(lambda answers=answers, stage=stage: answered_by(stage)[0] == answers)
            if new_versions == "take":
                assert stage.change("register", "rollback")["route"] == "1=100%"
                time.sleep(1.5)
                assert answered_by(stage)[0] == "1"


def comparison(stage: Stage, shadow: str, primary: str) -> dict[str, Any]:
    """Return what a shadow made of what a version answered, nothing if it has compared nothing."""
    _, told = stage.ask("GET", "/v2/models/register/shadow")
    for each in told.get("shadows", ()):
        if each["version"] == shadow:
            return dict(each["against"].get(primary, {}))
    return {}


def test_a_shadow_is_compared_with_what_was_answered_over_all_replicas(stage: Stage) -> None:
    stage.change("register", "split", weights={"1": "100%"})
    assert stage.change("register", "shadow", shadows={"3": "100%", "1": "100%"})["confirmed"]
    for _ in range(60):
        assert answered_by(stage)[0] == "1"
    assert eventually(lambda: comparison(stage, "3", "1").get("rows") == 60, SHADOW_S_MAX)
    assert eventually(lambda: comparison(stage, "1", "1").get("rows") == 60, SHADOW_S_MAX)
    other, noise = comparison(stage, "3", "1"), comparison(stage, "1", "1")
    assert other["outputs"]["y"]["difference"]["max"] == 2.0
    assert (noise["noise"], noise["outputs"]["y"]["difference"]["max"]) == (True, 0.0)


def test_what_was_compared_outlasts_the_shadow_and_promoting_it_ends_it(stage: Stage) -> None:
    stage.change("register", "split", weights={"1": "100%"})
    stage.change("register", "shadow", shadows={"3": "100%"})
    for _ in range(20):
        answered_by(stage)
    assert eventually(lambda: comparison(stage, "3", "1").get("rows") == 20, SHADOW_S_MAX)
    receipt = stage.change("register", "promote", version="3")
    assert receipt["route"] == "3=100%"
    assert {answered_by(stage)[0] for _ in range(10)} == {"3"}
    time.sleep(1.5)
    assert comparison(stage, "3", "1")["rows"] == 20


def test_a_rollback_does_not_wait_for_a_replica_that_is_still_starting(stage: Stage) -> None:
    """It was refused: what a replica has not loaded yet counted as not ready."""
    stage.change("register", "split", weights={"1": "100%"})
    stage.begin_replica("r2")
    refused = []
    until_s = time.monotonic() + 30
    while not (stage.folder / "r2.ready").exists():
        assert time.monotonic() < until_s
        for target in ("2", "1"):
            body = {"to": target, "why": "a test"}
            status, answer = stage.ask("POST", "/v2/models/register/traffic/rollback", body)
            if status != 200:
                refused.append(answer)
    assert refused == []
    receipt = stage.change("register", "rollback", to="2")
    assert sorted(receipt["acknowledged"]) == ["r0", "r1", "r2"]
    for name in ("r0", "r1"):
        stage.replicas.pop(name).kill()
    time.sleep(0.5)
    assert {answered_by(stage)[0] for _ in range(10)} == {"2"}


def test_one_that_is_ended_because_it_does_not_hold_back_is_in_the_receipt(stage: Stage) -> None:
    stage.replicas["r1"].send_signal(signal.SIGSTOP)
    receipt = stage.change("register", "split", weights={"1": "100%"}, atomic=True)
    assert (receipt["acknowledged"], receipt["killed"], receipt["confirmed"]) == (["r0"], ["r1"], True)
    assert stage.replicas.pop("r1").wait(60) == -signal.SIGKILL
