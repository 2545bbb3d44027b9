"""Whatever is put into the repository, what is served goes on being served, and the index says why."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving import admit, config, contents, loader, plan
from serving.device import gpus
from serving.shelf import Shelf
from serving.store import Store
from tests import hostile
from tests.models import constant, mlp, place
from tests.running import Running, get, post, read_answer

QUICK: dict[str, Any] = {"admission": {"deadline_s": 20}, "engine": {"inline_us_max": 20_000}}
X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def start(tmp_path: Path, repository: Path) -> Callable[..., Running]:
    """Return what makes a gateway on the repository; always with the same state."""

    def make(document: dict[str, Any] | None = None) -> Running:
        return Running(repository, tmp_path / "state", QUICK | (document or {}))

    return make


def ask(running: Running, path: str, document: Any = None) -> tuple[int, Any]:
    """Send one request; return its status and its JSON."""
    request = get(path) if document is None else post(path, json.dumps(document).encode())
    with running.connect() as client:
        client.sendall(request)
        status, _, body = read_answer(client)
    return status, json.loads(body) if body else None


def value(running: Running, model: str, version: str = "") -> float:
    """Return what the `constant` that answers says."""
    where = f"/versions/{version}" if version else ""
    status, answer = ask(running, f"/v2/models/{model}{where}/infer", {"inputs": [X]})
    assert status == 200, answer
    return float(answer["outputs"][0]["data"][0])


def index(running: Running, model: str) -> dict[str, tuple[str, str]]:
    """Return a model's lines of the repository index, as a client sees them."""
    status, lines = ask(running, "/v2/repository/index", {})
    assert status == 200
    return {line["version"]: (line["state"], line["reason"]) for line in lines if line["name"] == model}


def is_ready(running: Running, path: str = "/v2/health/ready") -> bool:
    return ask(running, path)[0] == 200


def write(repository: Path, model: str, version: int, content: bytes) -> Path:
    return hostile.lay_out(repository / model / str(version), content) / "model.onnx"


def needs_one_row() -> onnx.ModelProto:
    """Return a model that admission runs, and that fails at two rows: bad only for whoever batches it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], end=1),
        helper.make_node("Sub", ["size", "one"], ["last"]),
        helper.make_node("Gather", ["table", "last"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["y"]),
    ]
    weights = {"one": np.array([1]), "table": np.zeros((1, 4), np.float32)}
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# Which versions.


def test_the_version_policy_says_what_is_loaded_and_the_newest_of_it_answers(repository, start):
    policies = {
        "newest": ("", {3}),
        "two": ("version_policy { latest { num_versions: 2 } }", {2, 3}),
        "some": ("version_policy { specific { versions: [1, 2, 9] } }", {1, 2}),
        "every": ("version_policy { all {} }", {1, 2, 3}),
    }
    for (name, (said, _)), version in itertools.product(policies.items(), (1, 2, 3)):
        place(repository, name, version, constant(version), said)
    with start() as running:
        for name, (_, loaded) in policies.items():
            lines = index(running, name)
            assert {int(version) for version, (state, _) in lines.items() if state == "READY"} == loaded
            assert value(running, name) == max(loaded)
            assert {value(running, name, str(version)) for version in loaded} == loaded
            assert ask(running, f"/v2/models/{name}")[1]["versions"] == sorted(map(str, loaded))


def test_a_model_nobody_has_is_404_and_one_that_could_not_be_loaded_is_503(repository, start):
    place(repository, "good", 1, constant(1))
    write(repository, "bad", 1, b"no model")
    place(repository, "odd", 1, constant(1), "max_batch_sise: 1")
    with start() as running:
        for path, status in {
            "nobody": 404, "good/versions/2": 404, "bad": 503, "bad/versions/1": 503, "bad/versions/2": 404,
            "odd": 503, "odd/versions/1": 503,
        }.items():  # fmt: skip
            assert ask(running, f"/v2/models/{path}/infer", {"inputs": [X]})[0] == status, path
            assert ask(running, f"/v2/models/{path}/ready")[0] == status, path
        assert "max_batch_sise" in index(running, "odd")[""][1]


def test_a_model_that_is_named_in_the_configuration_and_not_there_says_so(repository, start):
    place(repository, "good", 1, constant(1))
    place(repository, "other", 1, constant(1))
    with start({"repository": {"models": ["good", "typo"]}}) as running:
        assert index(running, "typo") == {"": ("UNAVAILABLE", "the repository has no folder of this name")}
        assert ask(running, "/v2/models/other/ready")[0] == 404
        assert value(running, "good") == 1


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_a_model_that_asks_for_a_gpu_where_there_is_none_says_so_and_the_others_serve(repository, start):
    place(repository, "fast", 1, constant(1), "instance_group [{ kind: KIND_GPU }]")
    place(repository, "good", 1, constant(1))
    with start() as running:
        state, reason = index(running, "fast")["1"]
        assert (state, "a GPU is asked for" in reason) == ("UNAVAILABLE", True)
        assert ask(running, "/v2/models/fast/ready")[0] == 503
        assert value(running, "good") == 1
        assert is_ready(running)


# Candidates that fail.


@pytest.mark.parametrize("bad", ["corrupt", "batchless"])
def test_a_newer_version_that_fails_leaves_the_older_one_serving_also_after_a_restart(repository, start, bad):
    place(repository, "m", 1, constant(1), "max_batch_size: 4")
    with start() as running:
        if bad == "corrupt":
            write(repository, "m", 2, constant(2).SerializeToString()[:-20])
        else:
            write(repository, "m", 2, needs_one_row().SerializeToString())
        running.refresh()
        _check_only_the_first_serves(running)
    with start() as again:
        _check_only_the_first_serves(again)


def _check_only_the_first_serves(running: Running) -> None:
    lines = index(running, "m")
    assert lines["1"] == ("READY", "")
    assert lines["2"][0] == "UNAVAILABLE"
    assert lines["2"][1]
    assert value(running, "m") == value(running, "m", "1") == 1
    assert is_ready(running)
    assert is_ready(running, "/v2/models/m/ready")
    assert not is_ready(running, "/v2/models/m/versions/2/ready")
    assert ask(running, "/v2/models/m/versions/2/infer", {"inputs": [X]})[0] == 503
    assert ask(running, "/v2/repository/index", {"ready": True})[1] == [
        {"name": "m", "version": "1", "state": "READY", "reason": ""}
    ]


def test_several_newer_versions_that_fail_are_passed_over_until_one_serves(repository, start):
    place(repository, "m", 1, constant(1))
    for version in (2, 3, 4):
        write(repository, "m", version, b"x" * version)
    with start() as running:
        assert value(running, "m") == 1
        assert [index(running, "m")[version][0] for version in "1234"] == ["READY"] + ["UNAVAILABLE"] * 3


def test_where_two_versions_are_wanted_and_the_newest_fails_the_next_two_serve(repository, start):
    for version in (1, 2, 3):
        place(repository, "m", version, constant(version), "version_policy { latest { num_versions: 2 } }")
    write(repository, "m", 4, b"no model")
    with start() as running:
        assert {version for version, (state, _) in index(running, "m").items() if state == "READY"} == {
            "2",
            "3",
        }


def test_a_config_that_breaks_leaves_what_is_served_and_says_so_until_it_is_mended(repository, start):
    folder = place(repository, "m", 1, constant(1))
    with start() as running:
        (folder / "config.pbtxt").write_text("max_batch_sise: 4")
        running.refresh()
        assert "did you mean 'max_batch_size'" in index(running, "m")[""][1]
        assert value(running, "m") == 1
        assert is_ready(running, "/v2/models/m/ready")
        (folder / "config.pbtxt").write_text("max_batch_size: 4")
        running.refresh()
        assert index(running, "m") == {"1": ("READY", "")}


def test_a_change_of_configuration_that_fails_leaves_the_version_as_it_was(repository, start):
    """And does not bring an older version back in its place."""
    place(repository, "m", 1, constant(1))
    folder = place(repository, "m", 2, needs_one_row(), "max_batch_size: 1")
    with start() as running:
        before = running.gateway.find("m")
        (folder / "config.pbtxt").write_text("max_batch_size: 4")
        for _ in range(3):
            running.refresh()
            assert running.gateway.find("m") is before
            state, reason = index(running, "m")["2"]
            assert (state, "Gather" in reason) == ("READY", True)
            assert set(index(running, "m")) == {"2"}
        assert ask(running, "/v2/models/m/config")[1]["max_batch_size"] == 1


def test_a_version_whose_file_is_replaced_keeps_its_content_also_after_a_restart(repository, start):
    folder = place(repository, "m", 1, constant(1))
    place(repository, "m", 2, constant(2))
    with start() as running:
        onnx.save(constant(99), folder / "2" / "model.onnx")
        running.refresh()
        _check_the_second_is_what_it_was(running)
    with start() as again:
        _check_the_second_is_what_it_was(again)
        onnx.save(constant(2), folder / "2" / "model.onnx")
        again.refresh()
        assert index(again, "m")["2"] == ("READY", "")


def _check_the_second_is_what_it_was(running: Running) -> None:
    state, reason = index(running, "m")["2"]
    assert (state, "a version never changes under its name" in reason) == ("READY", True)
    assert value(running, "m") == 2


def test_a_version_that_serves_goes_on_though_its_file_could_not_be_taken_again(repository, start, tmp_path):
    """A backup by hard links must not take a model down."""
    place(repository, "m", 1, constant(1))
    folder = place(repository, "m", 2, constant(2))
    with start() as running:
        os.link(folder / "2" / "model.onnx", tmp_path / "backup")
        running.refresh()
        assert "hard links" in index(running, "m")["2"][1]
        assert value(running, "m") == 2


@pytest.mark.parametrize("bomb", [hostile.inlining_bomb, hostile.endless_loop, hostile.expand_bomb])
def test_a_hostile_candidate_leaves_everything_as_it_was(repository, start, bomb):
    place(repository, "m", 1, constant(1))
    with start({"admission": {"deadline_s": 1, "memory_bytes_max": 256 << 20}}) as running:
        write(repository, "m", 2, bomb())
        write(repository, "new", 1, bomb())
        done = asyncio.run_coroutine_threadsafe(running.gateway.shelf.refresh(), running._loop)
        while not done.done():
            assert value(running, "m") == 1
            assert is_ready(running)
            time.sleep(0.05)
        assert value(running, "m") == 1
        for model, version in (("m", "2"), ("new", "1")):
            state, reason = index(running, model)[version]
            assert (state, "within 1 s" in reason or "memory" in reason) == ("UNAVAILABLE", True), reason


def test_a_file_that_was_admitted_and_cannot_be_loaded_does_not_end_the_looking(repository, start, tmp_path):
    """ONNX Runtime's errors have no base but Exception, and so rose through the refresh."""
    path = write(repository, "m", 1, b"admitted, but no model")
    place(repository, "good", 1, constant(1))
    store = Store(tmp_path / "state", repository=repository)
    rules = admit.rules(config.parse(QUICK).admission)
    store.record_verdict(store.put("m", 1, path.parent).digest, rules)
    with start() as running:
        state, reason = index(running, "m")["1"]
        assert (state, "it cannot be loaded" in reason) == ("UNAVAILABLE", True)
        assert str(tmp_path) not in reason
        assert value(running, "good") == 1


def test_what_failed_is_tried_again_only_when_it_changed_or_time_has_passed(
    repository, start, monkeypatch, caplog
):
    """Each look at the repository once started a process for each bad candidate, and logged it."""
    path = write(repository, "m", 1, b"no model")
    tried: list[int] = []
    real = admit.admit
    monkeypatch.setattr(
        admit, "admit", lambda artifacts, limits: tried.append(len(artifacts)) or real(artifacts, limits)
    )
    with start() as running, caplog.at_level(logging.ERROR):
        for _ in range(3):
            running.refresh()
        assert tried == [1]
        assert caplog.text.count("event=unavailable") == 1
        monkeypatch.setattr(plan, "RETRY_S", -1)
        running.gateway.shelf._failures._known.clear()
        running.refresh()
        running.refresh()
        assert tried == [1, 1, 1]
        onnx.save(constant(5), path)
        running.refresh()
        assert value(running, "m") == 5


# Changes.


def test_what_is_removed_from_the_repository_is_unloaded_and_forgotten(repository, start):
    place(repository, "gone", 1, constant(1))
    folder = place(repository, "m", 1, constant(1), "version_policy { all {} }")
    place(repository, "m", 2, constant(2))
    with start() as running:
        shutil.rmtree(repository / "gone")
        shutil.rmtree(folder / "2")
        running.refresh()
        assert ask(running, "/v2/models/gone/ready")[0] == 404
        assert index(running, "gone") == {}
        assert index(running, "m") == {"1": ("READY", "")}
        assert ask(running, "/v2/models/m/versions/2/ready")[0] == 404
        assert value(running, "m") == 1
        shutil.rmtree(folder / "1")
        running.refresh()
        assert ask(running, "/v2/models/m/ready")[0] == 503
        assert "no version" in index(running, "m")[""][1]


def test_a_version_replaced_by_one_that_fails_stays_though_it_was_removed(repository, start):
    folder = place(repository, "m", 1, constant(1))
    with start() as running:
        shutil.rmtree(folder / "1")
        write(repository, "m", 2, b"no model")
        running.refresh()
        assert value(running, "m") == 1


def test_an_unloaded_model_comes_back_with_the_next_look(repository, start):
    place(repository, "m", 1, constant(1))
    with start() as running:
        running.do(running.gateway.shelf.unload("m"))
        assert index(running, "m") == {"1": ("UNAVAILABLE", "unloaded")}
        assert ask(running, "/v2/models/m/ready")[0] == 503
        running.refresh()
        assert value(running, "m") == 1


def test_batching_changes_while_requests_wait_and_none_is_lost(repository, start):
    slow = "max_batch_size: 8\ndynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 60000000 }"
    folder = place(repository, "m", 1, constant(1), slow)
    with start() as running:
        before = running.gateway.find("m")
        client = running.connect()
        client.sendall(post("/v2/models/m/infer", json.dumps({"inputs": [X]}).encode()))
        _wait_until(lambda: len(before.lane) == 1)
        (folder / "config.pbtxt").write_text(
            "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 100 }"
        )
        running.refresh()
        assert read_answer(client)[0] == 200
        client.close()
        assert running.gateway.find("m") is before
        assert before.spec.config.batching.delay_us == 100
        shown = ask(running, "/v2/models/m/config")[1]
        assert int(shown["dynamic_batching"]["max_queue_delay_microseconds"]) == 100
        assert value(running, "m") == 1


def _wait_until(true: Callable[[], bool], s_max: float = 20.0) -> None:
    until_s = time.monotonic() + s_max
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_what_is_told_of_a_version_changes_without_loading_it_again(repository, start):
    """The version policy alone once made the same version load twice."""
    said = 'output [{ name: "y" data_type: TYPE_FP32 dims: [-1, 4] label_filename: "labels.txt" }]\n'
    folder = place(repository, "m", 1, constant(1), said)
    (folder / "labels.txt").write_text("a\nb")
    with start() as running:
        before = running.gateway.find("m")
        assert before.spec.labels == {"y": ("a", "b")}
        (folder / "labels.txt").write_text("a\nc")
        (folder / "config.pbtxt").write_text(said + "version_policy { all {} }")
        place(repository, "m", 2, constant(2))
        running.refresh()
        assert running.gateway.find("m", "1") is before
        assert before.spec.labels == {"y": ("a", "c")}
        assert value(running, "m") == 2


def test_another_largest_batch_loads_the_version_anew(repository, start):
    folder = place(repository, "m", 1, constant(1), "max_batch_size: 8")
    with start() as running:
        before = running.gateway.find("m")
        (folder / "config.pbtxt").write_text("max_batch_size: 2")
        running.refresh()
        after = running.gateway.find("m")
        assert after is not before
        assert after.spec.rows_max == 2
        assert ask(running, "/v2/models/m/config")[1]["max_batch_size"] == 2
        assert value(running, "m") == 1


def test_refreshes_at_the_same_time_happen_one_after_the_other(repository, tmp_path, monkeypatch):
    for name in "ab":
        place(repository, name, 1, constant(1))
    under_way, loads = [0], []
    real = loader.prepare

    def prepare(*given: Any) -> Any:
        under_way[0] += 1
        assert under_way[0] == 1
        loads.append(given[0].model)
        prepared = real(*given)
        under_way[0] -= 1
        return prepared

    monkeypatch.setattr(loader, "prepare", prepare)

    async def scene() -> None:
        settings = config.parse({"repository": {"path": str(repository), "state": str(tmp_path / "state")}})
        shelf = Shelf(settings, asyncio.get_running_loop())
        await asyncio.gather(*[shelf.refresh() for _ in range(5)], shelf.refresh(["a"]))
        assert repr(shelf) == "<Shelf a: 1, b: 1>"
        await shelf.close()

    asyncio.run(scene())
    assert loads == ["a", "b"]


def test_of_a_new_model_the_newest_version_is_there_before_all_others(repository, tmp_path):
    """Who is told of it halfway gives it the traffic: once that was version 7, where 8 was still to come."""
    for version in (9, 10, 11):
        place(repository, "m", version, constant(version), "version_policy { all {} }")
    carried: list[set[str]] = []

    async def scene() -> None:
        settings = config.parse({"repository": {"path": str(repository), "state": str(tmp_path / "state")}})
        shelf = Shelf(
            settings, asyncio.get_running_loop(), lambda servables: carried.append({*servables["m"]})
        )
        await shelf.refresh()
        assert carried == [{"11"}, {"11", "10"}, {"11", "10", "9"}]

    asyncio.run(scene())


class Load:
    """Two clients that ask for a model again and again, each over one connection, and note what they get."""

    def __init__(self, running: Running, model: str) -> None:
        self._running = running
        self._path = f"/v2/models/{model}/infer"
        self._over = threading.Event()
        self.values: list[list[float]] = [[], []]
        self.faults: list[Any] = []
        self._threads = [threading.Thread(target=self._ask, args=(values,)) for values in self.values]

    def _ask(self, values: list[float]) -> None:
        request = post(self._path, json.dumps({"inputs": [X]}).encode(), close=False)
        try:
            with self._running.connect() as client:
                while not self._over.wait(0.001) and len(values) < 50_000:
                    client.sendall(request)
                    status, _, body = read_answer(client)
                    if status != 200:
                        self.faults.append((status, body))
                    else:
                        values.append(json.loads(body)["outputs"][0]["data"][0])
        except Exception as error:
            self.faults.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)


@pytest.mark.parametrize("inline_us_max", [20_000, 0])
def test_no_request_fails_while_versions_come_change_and_go(repository, start, inline_us_max):
    folder = place(repository, "m", 1, constant(1))
    with start({"engine": {"inline_us_max": inline_us_max}}) as running, Load(running, "m") as load:
        for version in range(2, 6):
            place(repository, "m", version, constant(version), f"max_batch_size: {version}")
            running.refresh()
            shutil.rmtree(folder / str(version - 1))
            (folder / "config.pbtxt").write_text(f"max_batch_size: {version + 10}")
            running.refresh()
            seen = len(load.values[0])
            _wait_until(lambda seen=seen: len(load.values[0]) > seen + 5)
    assert load.faults == []
    for values in load.values:
        assert values == sorted(values)
        assert set(values) == {1, 2, 3, 4, 5}


# Looking again and again.


def test_a_new_version_is_found_without_being_told(repository, start):
    place(repository, "m", 1, constant(1))
    with start({"repository": {"poll_s": 0.05}}) as running:
        place(repository, "m", 2, constant(2))
        _wait_until(lambda: value(running, "m") == 2)


def test_a_repository_that_cannot_be_read_for_a_while_changes_nothing(repository, start, caplog):
    place(repository, "m", 1, constant(1))
    with start({"repository": {"poll_s": 0.05}}) as running:
        repository.rename(repository.with_name("away"))
        _wait_until(lambda: "event=repository_unreadable" in caplog.text)
        assert value(running, "m") == 1
        repository.with_name("away").rename(repository)
        place(repository, "m", 2, constant(2))
        _wait_until(lambda: value(running, "m") == 2)


def test_a_fault_of_ours_does_not_end_the_looking(repository, start, monkeypatch, caplog):
    place(repository, "m", 1, constant(1))
    with start({"repository": {"poll_s": 0.05}}) as running:
        with monkeypatch.context() as broken:
            broken.setattr("serving.repository.scan", lambda _: 1 / 0)
            _wait_until(lambda: "event=refresh_broke" in caplog.text)
        place(repository, "m", 2, constant(2))
        _wait_until(lambda: value(running, "m") == 2)


def test_looking_again_reads_only_what_changed(repository, start, monkeypatch):
    """Each look once hashed every file of every served version, twice a second for a poll of 0.5 s."""
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    place(repository, "m", 1, constant(1))
    read: list[Path] = []
    real = contents.read
    monkeypatch.setattr(
        "serving.store.read", lambda folder, *more: read.append(folder) or real(folder, *more)
    )
    with start() as running:
        assert read
        read.clear()
        running.refresh()
        assert read == []
        onnx.save(constant(99), repository / "m" / "1" / "model.onnx")
        running.refresh()
        assert read
        assert "never changes" in index(running, "m")["1"][1]


# Sharing a state.


def test_two_gateways_may_share_a_state_and_start_at_the_same_time(repository, start):
    place(repository, "m", 1, constant(1))
    place(repository, "n", 1, mlp())
    pair = [start(), start()]
    with _both(pair):
        place(repository, "m", 2, constant(2))
        together = [threading.Thread(target=each.refresh) for each in pair]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join(30)
        assert [value(each, "m") for each in pair] == [2, 2]
        assert {line for each in pair for line in index(each, "n").values()} == {("READY", "")}


@contextmanager
def _both(pair: list[Running]) -> Iterator[None]:
    starting = [threading.Thread(target=each.__enter__) for each in pair]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join(60)
    try:
        yield
    finally:
        for each in pair:
            each.__exit__(None, None, None)


def test_the_same_name_in_two_repositories_is_two_versions(tmp_path):
    """A state that both use once took the second for a version that changed under its name."""
    for number, name in enumerate(("one", "other"), 1):
        place(tmp_path / name, "m", 1, constant(number))
    for number, name in enumerate(("one", "other"), 1):
        with Running(tmp_path / name, tmp_path / "state", QUICK) as running:
            assert index(running, "m") == {"1": ("READY", "")}
            assert value(running, "m") == number
            onnx.save(constant(9), tmp_path / name / "m" / "1" / "model.onnx")
            running.refresh()
            assert "never changes" in index(running, "m")["1"][1]
            assert value(running, "m") == number


# What traffic needs, whatever the policy says.


def test_a_version_that_is_needed_is_loaded_and_outlives_its_folder_and_its_policy(repository, start):
    for version in (1, 2, 3):
        place(repository, "m", version, constant(version))
    with start() as running:
        shelf = running.gateway.shelf
        assert set(index(running, "m")) == {"3"}
        assert running.do(shelf.ensure("m", frozenset({"1"}))) == {}
        assert value(running, "m", "1") == 1
        shutil.rmtree(repository / "m" / "1")
        running.refresh()
        assert value(running, "m", "1") == 1
        assert index(running, "m")["1"] == ("READY", "its folder is gone from the repository")
    with start() as again:
        assert again.do(again.gateway.shelf.ensure("m", frozenset({"1"}))) == {}
        assert value(again, "m", "1") == 1, "from the private copy"


def test_what_cannot_be_loaded_is_told_with_the_reason(repository, start):
    place(repository, "m", 1, constant(1))
    write(repository, "m", 2, b"no model")
    with start() as running:
        faults = running.do(running.gateway.shelf.ensure("m", frozenset({"1", "2", "7"})))
        assert set(faults) == {"2", "7"}
        assert faults["7"] == "it is not in the repository"
        assert running.gateway.shelf.keeping.must["m"] == {"1"}, "what cannot be is not wanted for ever"
        assert value(running, "m", "1") == 1


def test_tidying_up_drops_what_neither_policy_nor_route_needs(repository, start):
    for version in (1, 2, 3):
        place(repository, "m", version, constant(version))
    with start({"traffic": {"kept_bytes_max": 0}}) as running:
        shelf = running.gateway.shelf
        running.do(shelf.ensure("m", frozenset({"1", "2"})))
        shelf.keep({"m": frozenset({"1"})}, {"m": ["1"]})
        running.do(shelf.tidy())
        assert set(shelf.loaded.servables["m"]) == {"1", "3"}


def test_removing_a_model_s_folder_ends_it_whatever_is_needed(repository, start):
    place(repository, "m", 1, constant(1))
    with start() as running:
        running.gateway.shelf.keep({"m": frozenset({"1"})}, {"m": ["1"]})
        shutil.rmtree(repository / "m")
        running.refresh()
        assert ask(running, "/v2/models/m/infer", {"inputs": [X]})[0] == 404
