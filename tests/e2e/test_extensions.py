"""Do tritonclient's users find Triton's extensions: statistics, classification, logging, scheduling, parameters?"""

from __future__ import annotations

import json
import queue
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as v2
from tritonclient.utils import InferenceServerException

from serving.access import control_folder, token
from serving.config import Config, parse
from serving.extensions import extensions
from serving.log_settings import LogSettings, document
from serving.shm.kinds import Kind
from tests.e2e import asking, talking_rpc
from tests.e2e.asking import same
from tests.e2e.talking_rpc import ENGINES
from tests.models import identity, place, spinning
from tests.running import Running, get
from tests.stage import staged

PROTOCOLS = ("http", *ENGINES)
OUTPUT = 'name: "y" data_type: TYPE_FP32 dims: -1 label_filename: "labels.txt"'
PRIORITIES = """
max_batch_size: 1
dynamic_batching { priority_levels: 2 default_priority_level: 2
  priority_queue_policy { key: 1 value { allow_timeout_override: true } } }
"""
X: NDArray[np.float32] = np.array([[0.5, 2, 1], [3, -1, 0]], np.float32)
SLOW: NDArray[np.float32] = np.full((1, 4), 30_000, np.float32)
"""Some 30 ms."""


class Asker:
    """tritonclient's client of either protocol."""

    def __init__(self, running: Running, protocol: str) -> None:
        over_http = protocol == "http"
        self.kit: Any = tritonclient.http if over_http else tritonclient.grpc
        self.given: Callable[..., Any] = asking.given if over_http else talking_rpc.given
        more = {"concurrency": 8} if over_http else {}
        self.client = self.kit.InferenceServerClient(running.http if over_http else running.grpc, **more)
        self.over_http = over_http

    def json(self, said: Any) -> Any:
        """Return what was said as HTTP says it."""
        if self.over_http:
            return said
        return plain(said)


def plain(message: Any) -> Any:
    """Return a message of statistics as a document, with the zeros that it does not say."""
    fields = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            fields[field.name] = value
        elif not field.message_type.GetOptions().map_entry:
            many = isinstance(value, Iterable)
            fields[field.name] = [plain(each) for each in value] if many else plain(value)
    return fields


@pytest.fixture(scope="module", params=ENGINES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("extensions")
    models = folder / "models"
    place(models, "echo", 1, identity("FP32"), f"max_batch_size: 8\noutput {{ {OUTPUT} }}\n")
    (models / "echo" / "labels.txt").write_text("cat\ndog\n")
    place(models, "free", 1, identity("FP32", [2, 3]))
    place(models, "slow", 1, spinning(), PRIORITIES)
    settings = {"grpc": {"engine": request.param}, "engine": {"inline_us_max": 0}}
    with Running(models, folder / "state", settings) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def asker(running: Running, request: pytest.FixtureRequest) -> Iterator[Asker]:
    asker = Asker(running, request.param)
    yield asker
    asker.client.close()


def refused(ask_it: Callable[[], Any]) -> tuple[str, str]:
    """Return the status and the message with which something is refused."""
    with pytest.raises(InferenceServerException) as raised:
        ask_it()
    return str(raised.value.status()).removeprefix("StatusCode."), raised.value.message()


# --- The list.


def test_the_extensions_that_are_listed_are_those_that_there_are(running: Running, asker: Asker) -> None:
    said = asker.json(asker.client.get_server_metadata())
    assert said["extensions"] == [
        "binary_tensor_data",
        "classification",
        "logging",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
    ]
    with tritonclient.http.InferenceServerClient(running.http) as http:
        assert said == http.get_server_metadata()


def test_the_page_lists_the_extensions_that_there_can_be(root: Path) -> None:
    page = (root / "docs" / "reference" / "extensions.md").read_text()
    listed = re.findall(r"^\| `([a-z_]+)` \| (?:always|with `[a-z_.]+`) \|", page, re.MULTILINE)
    assert listed == extensions(Config(), Kind)
    assert "statistics" not in extensions(parse({"metrics": {"enabled": False}}), Kind)
    settings = re.findall(r"^\| `(log_\w+)` \| `(.*?)` \|", page, re.MULTILINE)
    assert {name: json.loads(value) for name, value in settings} == document(LogSettings())


def test_what_is_not_counted_has_no_statistics(tmp_path: Path) -> None:
    place(tmp_path / "models", "echo", 1, identity("FP32"))
    with Running(tmp_path / "models", tmp_path / "state", {"metrics": {"enabled": False}}) as running:
        for protocol in ("http", "grpc"):
            asker = Asker(running, protocol)
            assert "statistics" not in asker.json(asker.client.get_server_metadata())["extensions"]
            status, says = refused(asker.client.get_inference_statistics)
            assert status == ("501" if protocol == "http" else "UNIMPLEMENTED")
            assert "does not offer model stats" in says
            asker.client.close()


# --- Statistics.


def test_statistics_count_what_was_answered_as_soon_as_it_is(asker: Asker) -> None:
    def counts() -> dict[str, Any]:
        (stats,) = asker.json(asker.client.get_inference_statistics("echo"))["model_stats"]
        return dict(stats)

    before = counts()
    for _ in range(3):
        asker.client.infer("echo", asker.given({"x": X}))
    with pytest.raises(InferenceServerException):
        asker.client.infer("echo", asker.given({"x": X}), priority=1, timeout=1, model_version="2")
    after = counts()
    assert (after["name"], after["version"]) == ("echo", "1")
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 3
    for name, took in after["inference_stats"].items():
        grown = 0 if name in ("fail", "cache_hit", "cache_miss") else 3
        assert took["count"] - before["inference_stats"][name]["count"] == grown
        assert (took["ns"] > before["inference_stats"][name]["ns"]) == bool(grown)
    (twos,) = [each for each in after["batch_stats"] if each["batch_size"] == 2]
    assert twos["compute_infer"]["count"] >= 3
    assert abs(after["last_inference"] / 1000 - time.time()) < 5
    assert after["memory_usage"][0]["byte_size"] > 0


def test_what_is_answered_later_keeps_its_place_among_the_requests_of_a_connection(running: Running) -> None:
    asked = get("/v2/models/stats", close=False) + get("/v2/models/nobody/stats", close=False)
    last = get("/v2/models/echo/stats") + b"nothing of this is read"
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", running.exchange(asked * 20 + last))
    assert statuses == [b"200", b"404"] * 20 + [b"200"]


def test_clients_that_leave_before_they_are_answered_do_no_harm(running: Running) -> None:
    for _ in range(20):
        with running.connect() as client:
            client.sendall(get("/v2/models/stats", close=False))
        with talking_rpc.stub(running.grpc) as stub:
            stub.ModelStatistics.future(v2.ModelStatisticsRequest()).cancel()
    assert running.exchange(get("/v2/models/stats")).startswith(b"HTTP/1.1 200 OK")


def test_both_protocols_say_the_same_of_all_models_of_one_and_of_a_version(running: Running) -> None:
    http, rpc = Asker(running, "http"), Asker(running, "grpc")
    for asked in ((), ("echo",), ("echo", "1")):
        said = http.client.get_inference_statistics(*asked)
        assert said == rpc.json(rpc.client.get_inference_statistics(*asked))
        names = [each["name"] for each in said["model_stats"]]
        assert names == (["echo"] if asked else ["echo", "free", "slow"])
    for asked in (("nobody",), ("echo", "2")):
        status, says = refused(lambda asked=asked: http.client.get_inference_statistics(*asked))
        assert (status, says) == (
            "404",
            refused(lambda asked=asked: rpc.client.get_inference_statistics(*asked))[1],
        )
    http.client.close()
    rpc.client.close()


# --- Classification.


def classes(asker: Asker, model: str, x: NDArray[Any], count: int, **more: Any) -> Any:
    """Return the classes of the output."""
    outputs = [asker.kit.InferRequestedOutput("y", class_count=count, **more)]
    return asker.client.infer(model, asker.given({"x": x}), outputs=outputs).as_numpy("y")


def test_each_row_of_a_batch_has_its_classes_with_their_labels(asker: Asker) -> None:
    want = [["2.000000:1:dog", "1.000000:2"], ["3.000000:0:cat", "0.000000:2"]]
    for more in ({}, {"binary_data": False}) if asker.over_http else ({},):
        assert same(classes(asker, "echo", X, 2, **more), np.array(want, object))
        assert same(classes(asker, "echo", X[1:], 1, **more), np.array([["3.000000:0:cat"]], object))


def test_a_model_that_does_not_batch_has_one_list_and_no_more_classes_than_elements(asker: Asker) -> None:
    got = classes(asker, "free", X, 100)
    assert got.shape == (6,)
    assert got[0] in (b"3.000000:3", "3.000000:3")


def test_requests_for_classes_and_for_the_output_itself_share_runs_and_are_not_mixed_up(asker: Asker) -> None:
    for _ in range(3):
        assert classes(asker, "echo", X, 1).shape == (2, 1)
        assert same(asker.client.infer("echo", asker.given({"x": X})).as_numpy("y"), X)


def test_new_labels_hold_for_calls_that_were_seen_before(tmp_path: Path) -> None:
    folder = place(
        tmp_path / "models", "echo", 1, identity("FP32"), f"max_batch_size: 8\noutput {{ {OUTPUT} }}\n"
    )
    (folder / "labels.txt").write_text("cat\n")
    with Running(tmp_path / "models", tmp_path / "state") as running:
        asker = Asker(running, "grpc")
        assert classes(asker, "echo", X[1:], 1).tolist() == [[b"3.000000:0:cat"]]
        (folder / "labels.txt").write_text("lion\n")
        running.refresh()
        assert classes(asker, "echo", X[1:], 1).tolist() == [[b"3.000000:0:lion"]]
        asker.client.close()


# --- Logging.


def test_logging_is_shown_to_all_and_changed_by_the_operator(running: Running, asker: Asker) -> None:
    """Over both protocols, with the same words for what is refused."""
    client = asker.client

    def settings(said: Any) -> dict[str, Any]:
        if asker.over_http:
            return dict(said)
        return {
            name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in said.settings.items()
        }

    unset = {
        "log_file": "",
        "log_info": False,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
    assert settings(client.get_log_settings()) == unset
    mine = {"authorization": f"Bearer {token(control_folder(running.config))}"}
    changes = {"log_info": True, "log_format": "ISO8601"}
    assert settings(client.update_log_settings(changes, headers=mine)) == {**unset, **changes}
    assert settings(client.get_log_settings()) == {**unset, **changes}
    back = dict.fromkeys(changes)
    for headers, status, code in (
        ({}, "401", "UNAUTHENTICATED"),
        ({"authorization": "Basic eDp5"}, "401", "UNAUTHENTICATED"),
        ({"authorization": "Bearer nonsense"}, "403", "PERMISSION_DENIED"),
    ):
        got, says = refused(lambda headers=headers: client.update_log_settings(back, headers=headers))
        assert got == (status if asker.over_http else code)
        assert "for the operator alone" in says and mine["authorization"] not in says
    got, says = refused(lambda: client.update_log_settings({"log_file": "/tmp/log"}, headers=mine))
    assert got == ("400" if asker.over_http else "INVALID_ARGUMENT")
    assert "no file is named over the wire" in says
    assert settings(client.update_log_settings(back, headers=mine)) == unset


def test_nothing_is_traced(asker: Asker) -> None:
    for ask_it in (
        asker.client.get_trace_settings,
        lambda: asker.client.update_trace_settings("echo", {"trace_level": ["TIMESTAMPS"]}),
        lambda: asker.client.update_trace_settings(settings={"trace_file": "/tmp/trace"}),
    ):
        assert refused(ask_it)[0] == ("501" if asker.over_http else "UNIMPLEMENTED")


def test_the_replicas_of_a_node_add_up_and_are_set_together(tmp_path: Path) -> None:
    place(tmp_path / "models", "echo", 1, identity("FP32"))
    with staged(tmp_path, tmp_path / "models", 2) as stage:
        # Each client has a connection of its own, which one of the replicas takes.
        clients = [tritonclient.http.InferenceServerClient(stage.http) for _ in range(12)]
        for client in clients:
            client.infer("echo", asking.given({"x": X}))
        for client in clients:
            (stats,) = client.get_inference_statistics("echo")["model_stats"]
            assert (stats["inference_stats"]["success"]["count"], stats["inference_count"]) == (12, 24)
        operator = {"authorization": f"Bearer {token(stage.state)}"}
        for level, client in enumerate(clients):
            said = client.update_log_settings({"log_verbose_level": level}, headers=operator)
            assert all(each.get_log_settings() == said for each in clients)
        for client in clients:
            client.close()


# --- Sequences, scheduling, parameters.


@pytest.mark.parametrize(
    "sequence",
    [
        {"sequence_id": 5},
        {"sequence_id": "five", "sequence_start": True},
        {"sequence_id": 5, "sequence_end": True},
    ],
)
def test_sequences_are_refused_until_a_model_has_state(asker: Asker, sequence: dict[str, Any]) -> None:
    status, says = refused(lambda: asker.client.infer("echo", asker.given({"x": X}), **sequence))
    assert status == ("400" if asker.over_http else "INVALID_ARGUMENT")
    assert "sequences are not supported" in says


def test_a_higher_priority_overtakes_and_a_timeout_is_kept(running: Running) -> None:
    """Over gRPC three wait that were first, then one of priority 1 overtakes them, and one is too late."""
    asker = Asker(running, "grpc")
    answers: queue.Queue[Any] = queue.Queue()

    def ask(name: str, x: NDArray[Any], **more: Any) -> None:
        told = lambda result, error: answers.put(error or name)  # noqa: ARG005, E731 - its names.
        asker.client.async_infer("slow", asker.given({"x": x}), told, **more)

    def wait_for(count: int) -> None:
        lane, until_s = running.gateway.find("slow").lane, time.monotonic() + 10
        while len(lane) < count and time.monotonic() < until_s:
            time.sleep(0.001)

    ask("running", SLOW * 10)
    wait_for(1)
    for count, name in enumerate("abc", start=2):
        ask(name, SLOW)
        wait_for(count)
    ask("late", SLOW, priority=1, timeout=1)
    ask("first", SLOW, priority=1)
    heard = [answers.get(timeout=10) for _ in range(6)]
    (error,) = [each for each in heard if not isinstance(each, str)]
    assert [each for each in heard if isinstance(each, str)] == ["running", "first", "a", "b", "c"]
    assert "deadline passed while it waited" in error.message()
    asker.client.close()


def test_priority_and_timeout_mean_over_http_what_they_mean_over_grpc(asker: Asker) -> None:
    inputs = asker.given({"x": SLOW * 10})
    status, says = refused(lambda: asker.client.infer("slow", inputs, priority=1, timeout=20_000))
    assert status == ("504" if asker.over_http else "DEADLINE_EXCEEDED")
    assert "deadline" in says or "in time" in says
    got = asker.client.infer("slow", asker.given({"x": SLOW}), priority=1, timeout=10_000_000)
    assert same(got.as_numpy("y"), SLOW)


def test_a_request_may_have_parameters_of_its_own_and_none_that_is_reserved(asker: Asker) -> None:
    given = asker.given({"x": X})
    mine = {"customer": "c-17", "turnout_version": "1", "weight": 0.5, "again": True}
    assert same(asker.client.infer("echo", given, parameters=mine).as_numpy("y"), X)
    status, says = refused(lambda: asker.client.infer("echo", given, parameters={"turnout_version": "9"}))
    assert status == ("404" if asker.over_http else "NOT_FOUND") and "no version 9" in says
