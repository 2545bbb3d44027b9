"""Models loaded and unloaded while several replicas serve: by clients, by people, and across deaths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from serving import access, orders
from tests.e2e.talking_rpc import ENGINES
from tests.models import constant, place
from tests.running import Running
from tests.stage import ROOT, Stage, staged
from tests.talking import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROW = [1.0, 2.0, 3.0, 4.0]
UNLOADED = "UNLOADED"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        place(folder, "m", version, constant(version), "version_policy { all {} }" if version == 1 else "")
    return folder


@pytest.fixture(scope="module")
def _stage(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stage]:
    """A control and two replicas, with the traffic split."""
    with staged(tmp_path_factory.mktemp("stage"), repository, 2) as made:
        divide(made)
        yield made


@pytest.fixture
def stage(_stage: Stage) -> Iterator[Stage]:
    """Return the stage, and see to it that the next test finds it as it was."""
    yield _stage
    assert _stage.ask("POST", "/v2/repository/models/m/load", {})[0] == 200
    assert answers(_stage).keys() == {"1", "2"}


def divide(stage: Stage) -> None:
    assert eventually(lambda: stage.ask("GET", "/v2/models/m/traffic")[0] == 200)
    stage.change("m", "split", weights={"1": "50%", "2": "50%"})


def client(stage: Stage) -> tritonclient.http.InferenceServerClient:
    return tritonclient.http.InferenceServerClient(stage.http)


def operator(stage: Stage) -> dict[str, str]:
    return {"authorization": f"Bearer {(stage.state / 'token').read_text().strip()}"}


def answers(stage: Stage, requests: int = 40) -> Counter[str]:
    """Return which versions answer requests over new connections, and so over both replicas."""
    counted: Counter[str] = Counter()
    for _ in range(requests):
        try:
            document, _ = stage.infer("m", ROW)
            counted[document["model_version"]] += 1
        except urllib.error.HTTPError as error:
            with error:
                assert error.code == 503
                assert "unloaded" in json.load(error)["error"]
            counted[UNLOADED] += 1
    return counted


def test_a_model_goes_and_comes_on_all_replicas_and_gets_its_route_back(stage: Stage) -> None:
    with client(stage) as triton:
        assert answers(stage).keys() == {"1", "2"}
        triton.unload_model("m", headers=operator(stage))
        assert answers(stage).keys() == {UNLOADED}
        status, standing = stage.ask("GET", "/v2/models/m/traffic")
        assert (status, standing["route"], standing["versions_ready"]) == (200, "2=50% 1=50%", {})
        status, refused = stage.ask(
            "POST", "/v2/models/m/traffic/split", {"weights": {"1": "100%"}, "why": "a test"}
        )
        assert (status, refused["error"]) == (
            409,
            "it cannot be loaded: m@1: the model is unloaded; load it first: turnout load m",
        )
        triton.load_model("m", headers=operator(stage))
        assert answers(stage).keys() == {"1", "2"}


def test_a_load_that_fails_changes_nothing_anywhere(stage: Stage) -> None:
    before = orders.read(stage.state / orders.ORDERS)
    broken = '{"input": [{"name": "z", "data_type": "TYPE_FP32", "dims": [4]}]}'
    with client(stage) as triton:
        with pytest.raises(InferenceServerException, match="declares input 'z'") as raised:
            triton.load_model("m", headers=operator(stage), config=broken)
        assert raised.value.status() == "400"
        with pytest.raises(InferenceServerException, match="nobody: the repository has no model") as raised:
            triton.load_model("nobody", headers=operator(stage))
        assert raised.value.status() == "404"
    for body, status in (({"parameters": {"config": broken}}, 409), ({"parameters": {"file:x": ""}}, 400)):
        assert stage.ask("POST", "/v2/repository/models/m/load", body)[0] == status
    assert answers(stage).keys() == {"1", "2"}
    assert orders.read(stage.state / orders.ORDERS) == before


def test_what_is_ordered_outlives_replicas_and_controls(tmp_path: Path, repository: Path) -> None:
    own = '{"max_batch_size": 3, "version_policy": {"all": {}}}'
    with staged(tmp_path, repository, 2) as stage, client(stage) as triton:
        divide(stage)
        triton.load_model("m", headers=operator(stage), config=own)
        kill(stage, "r0", "r1")
        assert stage.control is not None
        stage.control.kill()
        stage.control.wait(60)
        stage.start_control()
        stage.start_replica("r2")
        assert triton.get_model_config("m")["max_batch_size"] == 3
        assert answers(stage).keys() == {"1", "2"}
        triton.unload_model("m", headers=operator(stage))
        assert (stage.state / "orders.json").stat().st_mode & 0o777 == 0o600
        stage.start_replica("r3")
        kill(stage, "r2")
        assert answers(stage).keys() == {UNLOADED}
        triton.load_model("m", headers=operator(stage))
        stage.control.kill()
        stage.control.wait(60)
        assert eventually(
            lambda: "the control" in refusal(triton.unload_model, "m", headers=operator(stage))[1]
        )
        assert refusal(triton.load_model, "m", headers=operator(stage))[0] == "503"
        assert answers(stage).keys() == {"1", "2"}


def refusal(verb: Any, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as raised:
        verb(*arguments, **more)
    return str(raised.value.status()).removeprefix("StatusCode."), raised.value.message()


def kill(stage: Stage, *names: str) -> None:
    for name in names:
        stage.replicas[name].kill()
        stage.replicas.pop(name).wait(60)


def test_requests_under_way_are_answered_while_a_model_is_loaded_anew(stage: Stage) -> None:
    seen: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            seen.update(answers(stage, 1))

    asking = threading.Thread(target=ask)
    asking.start()
    with client(stage) as triton:
        for rows in (2, 5, 8):
            own = json.dumps({"max_batch_size": rows, "version_policy": {"all": {}}})
            triton.load_model("m", headers=operator(stage), config=own)
            for _ in range(6):
                with client(stage) as another:
                    assert another.get_model_config("m")["max_batch_size"] == rows
    over.set()
    asking.join(20)
    assert seen.keys() == {"1", "2"}


def turnout(stage: Stage, *words: str) -> tuple[int, str]:
    """Run the command line against the stage's admin application."""
    token = (stage.state / "token").read_text().strip()
    ran = subprocess.run(
        [sys.executable, "-m", "serving.cli", *words, "--admin", f"http://{stage.admin}"],
        cwd=ROOT,
        env={**os.environ, "TURNOUT_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_people_load_and_unload_from_the_command_line(stage: Stage, tmp_path: Path) -> None:
    code, said = turnout(stage, "unload", "m")
    assert (code, said.splitlines()[0].startswith("m: unloaded, in ")) == (0, True)
    assert "  done  r0, r1" in said
    assert answers(stage).keys() == {UNLOADED}
    own = tmp_path / "own.json"
    own.write_text('{"version_policy": {"specific": {"versions": [1]}}}')
    code, said = turnout(stage, "load", "models:/m", "--override", str(own), "--json")
    assert (code, json.loads(said)["configured"]) == (0, True)
    assert answers(stage).keys() == {"1", "2"}  # The route needs both.
    assert turnout(stage, "load", "nobody") == (
        2,
        "turnout: nobody: the repository has no model of this name\n",
    )


@pytest.fixture(scope="module", params=ENGINES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("loading")
    place(folder / "models", "m", 1, constant(1))
    with Running(folder / "models", folder / "state", {"grpc": {"engine": request.param}}) as running:
        yield running


def test_tritons_grpc_client_loads_and_unloads(running: Running) -> None:
    token = access.token(access.control_folder(running.config))
    said = {"authorization": f"Bearer {token}"}
    with tritonclient.grpc.InferenceServerClient(running.grpc) as triton:
        triton.unload_model("m", headers=said)
        assert not triton.is_model_ready("m")
        [line] = triton.get_model_repository_index().models
        assert (line.name, line.version, line.state, line.reason) == ("m", "1", "UNAVAILABLE", "unloaded")
        triton.load_model("m", headers=said, config='{"max_batch_size": 3}')
        assert triton.is_model_ready("m")
        assert triton.get_model_config("m").config.max_batch_size == 3
        triton.load_model("m", headers=said)


def test_both_protocols_refuse_in_the_same_words(running: Running) -> None:
    token = access.token(access.control_folder(running.config))
    good = {"authorization": f"Bearer {token}"}
    cases: list[tuple[str, dict[str, str], dict[str, Any], str, str]] = [
        ("m", {}, {}, "401", "UNAUTHENTICATED"),
        ("m", {"authorization": f"Basic {token}"}, {}, "401", "UNAUTHENTICATED"),
        ("m", {"authorization": f"Bearer {token}x"}, {}, "403", "PERMISSION_DENIED"),
        ("nobody", good, {}, "404", "NOT_FOUND"),
        ("m", good, {"config": '{"max_batch": 1}'}, "400", "INVALID_ARGUMENT"),
        ("m", good, {"config": "[]"}, "400", "INVALID_ARGUMENT"),
    ]
    with (
        tritonclient.http.InferenceServerClient(running.http) as http,
        tritonclient.grpc.InferenceServerClient(running.grpc) as rpc,
    ):
        for model, headers, more, status, code in cases:
            over_http = refusal(http.load_model, model, headers=headers, **more)
            over_rpc = refusal(rpc.load_model, model, headers=headers, **more)
            assert (over_http[0], over_rpc) == (status, (code, over_http[1]))
        files = {"file:1/model.onnx": b"not a model"}
        told = refusal(rpc.load_model, "m", headers=good, config="{}", files=files)
        assert told[0] == "INVALID_ARGUMENT"
        assert "models are not taken from a request" in told[1]
        assert rpc.is_model_ready("m")
