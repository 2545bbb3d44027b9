"""What a version is when it is ready: which batches it forms, what was warmed, and what never gets that far."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving import config, loader
from serving.device import NoDevice, gpus
from serving.errors import Failed, TurnoutError
from serving.loader import Prepared, Sample
from serving.model import Artifact, Batching, Device, ModelConfig, Warmup, WarmupTensor
from serving.session import Session, Stop
from serving.wire import DATATYPES, TensorSpec
from tests import models

PATIENT = {"engine": {"inline_us_max": 20_000}}
"""A machine that others use too may take a while for a run of microseconds."""


def prepare(
    folder: Path,
    proto: onnx.ModelProto,
    said: ModelConfig | None = None,
    document: dict[str, Any] = PATIENT,
    **more: Any,
) -> Prepared:
    path = models.place(folder, "m", 1, proto) / "1" / "model.onnx"
    artifact = Artifact("m", 1, "digest", path, path.stat().st_size)
    return loader.prepare(artifact, said or ModelConfig("m"), more.get("labels", {}), config.parse(document))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, NDArray[Any]]]:
    """Return the feeds of every run that the loader makes, as it makes them."""
    seen: list[dict[str, NDArray[Any]]] = []

    class Watched(Session):
        def run(self, feeds, stop):
            seen.append(dict(feeds))
            return super().run(feeds, stop)

    monkeypatch.setattr(loader, "Session", Watched)
    return seen


def between(
    nodes: list[Any], x: list[Any], y: list[Any], weights: dict[str, Any], kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """Return a graph from `x` to `y` of these dimensions."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    ends = [[helper.make_tensor_value_info(name, kind, dims)] for name, dims in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def only(length: int) -> onnx.ModelProto:
    """Return a model that leaves its second dimension open, and takes but one size there."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return between([node], ["N", "T"], ["N", 2], {"w": np.ones((length, 2), np.float32)})


# Batches.


def test_a_model_whose_rows_are_independent_is_batched_without_being_asked_to(tmp_path):
    prepared = prepare(tmp_path, models.mlp())
    assert prepared.spec.rows_max == 64
    assert prepared.inline(20_000)


def test_a_model_whose_rows_are_not_independent_is_never_batched(tmp_path):
    assert prepare(tmp_path, models.centred()).spec.rows_max == 0


def test_a_model_that_is_told_its_batches_is_believed(tmp_path):
    assert prepare(tmp_path, models.mlp(), ModelConfig("m", rows_max=5)).spec.rows_max == 5
    assert prepare(tmp_path / "0", models.mlp(), ModelConfig("m", rows_max=0)).spec.rows_max == 0


def test_batching_by_default_can_be_switched_off(tmp_path):
    assert (
        prepare(tmp_path, models.mlp(), document=PATIENT | {"batching": {"rows_max": 1}}).spec.rows_max == 0
    )


@pytest.mark.parametrize("said", [None, 8])
def test_a_graph_that_fixes_its_batch_dimension_is_served_as_it_is(tmp_path, runs, said):
    prepared = prepare(tmp_path, models.mlp(batch=3), ModelConfig("m", rows_max=said))
    assert prepared.spec.rows_max == 0
    assert prepared.spec.inputs[0].shape == (3, 16)
    assert {feeds["x"].shape for feeds in runs} == {(3, 16)}


def test_outputs_whose_shape_follows_from_values_are_not_joined(tmp_path):
    """Two rows of different lengths once broke the comparison, and with it the whole version."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["n"], keepdims=0),
        helper.make_node("Reshape", ["n", "one"], ["ends"]),
        helper.make_node("Slice", ["x", "zero", "ends", "one"], ["y"]),
    ]
    proto = between(
        nodes, ["N", 4], ["N", "K"], {"one": np.array([1]), "zero": np.array([0])}, TensorProto.INT64
    )
    assert prepare(tmp_path, proto).spec.rows_max == 0


def test_noise_is_not_joined(tmp_path):
    proto = between(
        [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        ["N", 4], ["N", 4], {},
    )  # fmt: skip
    assert prepare(tmp_path, proto).spec.rows_max == 0


@pytest.mark.parametrize("rows_max", [1, 2, 7])
def test_every_number_of_rows_that_a_batch_can_have_is_warmed(tmp_path, runs, rows_max):
    prepare(tmp_path, models.mlp(), ModelConfig("m", rows_max=rows_max))
    assert {feeds["x"].shape[0] for feeds in runs} == set(range(1, rows_max + 1))


def test_every_batch_of_an_automatically_batched_model_is_warmed_the_largest_first(tmp_path, runs):
    prepared = prepare(tmp_path, models.mlp())
    sizes = [feeds["x"].shape[0] for feeds in runs]
    assert set(sizes) == set(range(1, prepared.spec.rows_max + 1))
    warmed = sizes[len(sizes) - 64 - (loader.TIMED_RUNS + 1) :]
    assert warmed[:4] == [64, 1, 2, 3]


def test_a_batch_that_was_made_to_fit_is_not_measured_again(tmp_path, monkeypatch):
    """A second look, by noise, once gave a thread to what had just been found short enough for the loop."""
    seen: list[int] = []

    def timed(_session: Any, _sample: Any, rows: int, _stop: Any) -> int:
        seen.append(rows)
        return 1000 if seen.count(rows) == 1 or rows == 1 else 10**9

    monkeypatch.setattr(loader, "timed", timed)
    prepared = prepare(tmp_path, models.mlp())
    assert prepared.spec.rows_max == 64
    assert prepared.inline(20_000)


def test_a_model_that_is_slow_is_not_batched_by_default_and_has_a_thread(tmp_path):
    prepared = prepare(tmp_path, models.mlp(), document={"engine": {"inline_us_max": 1}})
    assert prepared.spec.rows_max == 0
    assert not prepared.inline(1)


def test_a_batch_that_would_hold_up_the_loop_is_halved_until_it_does_not(monkeypatch):
    """A run of 10 us a row on a loop that allows 100 us, so a batch may take 800."""
    monkeypatch.setattr(loader, "timed", lambda _session, _sample, rows, _stop: rows * 10_000)
    monkeypatch.setattr(loader, "rows_are_independent", lambda *_: True)
    spec: Any = type("Spec", (), {"rows_max": 1000})
    assert loader.rows_worth_joining(None, spec, None, 100_000, None) == 62  # type: ignore[arg-type]


@given(run_ns=st.integers(0, 10**7), full_ns=st.integers(0, 10**8), limit_us=st.integers(0, 10_000))
def test_only_runs_that_were_measured_and_are_short_execute_on_the_loop(run_ns, full_ns, limit_us):
    prepared = Prepared(None, None, run_ns, full_ns, 0.0, 0)  # type: ignore[arg-type]
    if prepared.inline(limit_us):
        assert 0 < run_ns <= limit_us * 1000
        assert full_ns <= loader.FULL_BATCH_FACTOR * limit_us * 1000
    else:
        assert run_ns == 0 or run_ns > limit_us * 1000 or full_ns > loader.FULL_BATCH_FACTOR * limit_us * 1000


# Made-up inputs.


def test_open_dimensions_that_take_but_one_size_are_found(tmp_path, runs):
    prepared = prepare(tmp_path, only(224))
    assert prepared.spec.rows_max == 64
    assert {(64, 224), (1, 224)} <= {each["x"].shape for each in runs}


def test_a_model_that_no_made_up_input_fits_is_served_without_being_warmed(tmp_path, caplog):
    prepared = prepare(tmp_path, only(37))
    assert prepared.spec.rows_max == 0
    assert (prepared.run_ns, prepared.full_ns) == (0, 0)
    assert not prepared.inline(20_000)
    assert "event=not_warmed" in caplog.text
    feeds = {"x": np.ones((1, 37), np.float32)}
    assert prepared.session.run(feeds, Stop())[0].tolist() == [[37, 37]]


def test_a_recurrent_state_between_whose_ends_lie_the_rows_is_found(tmp_path):
    """As in Silero VAD: [2, rows, 128] beside a signal of [rows, 512]."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "state"], ["y"])]
    proto = between(nodes, ["N", "T"], [2, "N", 4], {"w": np.ones((512, 4), np.float32)})
    proto.graph.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "N", 4]))
    assert prepare(tmp_path, proto).run_ns > 0


@given(
    dims=st.lists(st.sampled_from([-1, 1, 3]), max_size=4),
    size=st.sampled_from(loader.SIZES_TRIED),
    everywhere=st.booleans(),
    rows=st.integers(1, 3),
    name=st.sampled_from(sorted(DATATYPES)),
    random=st.booleans(),
)
@settings(max_examples=100)
def test_a_made_up_input_is_what_the_signature_says(dims, size, everywhere, rows, name, random):
    spec = TensorSpec("x", DATATYPES[name], tuple(dims))
    sample = Sample((spec,), size, everywhere)
    if sample.elements > 100_000:
        return
    made = sample.feeds(rows, np.random.default_rng(0) if random else None)["x"]
    assert made.dtype == spec.datatype.dtype
    assert spec.admits(made.shape)
    assert made.shape[:1] == ((rows,) if dims[:1] == [-1] else tuple(dims[:1]))
    assert sample.elements == math.prod(sample.feeds(1)["x"].shape)


def test_a_sample_that_would_not_fit_into_memory_is_not_made(tmp_path, runs):
    """Four open dimensions of 1,024 each are 4 TiB."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    dims = ["N", "A", "B", "C", "D"]
    proto = between([node], dims, [*dims[:-1], 2], {"w": np.ones((1999, 2), np.float32)})
    assert prepare(tmp_path, proto).run_ns == 0
    assert max(feeds["x"].size for feeds in runs) <= loader.ELEMENTS_MAX


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_models_of_every_datatype_are_warmed_and_batched(tmp_path, runs, datatype):
    prepared = prepare(tmp_path, models.identity(datatype, ["N", 2]), ModelConfig("m"), PATIENT)
    assert prepared.run_ns > 0
    assert prepared.spec.rows_max == 64
    assert runs[-1]["x"].dtype == DATATYPES[datatype].dtype


def test_an_input_with_a_default_is_not_made_up(tmp_path, runs):
    proto = between(
        [helper.make_node("Mul", ["x", "by"], ["y"])], ["N", 4], ["N", 4], {"by": np.ones(1, np.float32)}
    )
    proto.graph.input.append(helper.make_tensor_value_info("by", TensorProto.FLOAT, [1]))
    prepared = prepare(tmp_path, proto)
    assert [(each.name, each.optional) for each in prepared.spec.inputs] == [("x", False), ("by", True)]
    assert {tuple(feeds) for feeds in runs} == {("x",)}


# What the configuration asks for.


def test_configured_warm_up_runs_as_often_as_it_says_with_what_it_says(tmp_path, runs):
    ones = Warmup("r", 3, (WarmupTensor("x", (16,), "random"),), count=2)
    zeros = Warmup("z", 0, (WarmupTensor("x", (1, 16), "zero"),))
    prepare(tmp_path, models.mlp(), ModelConfig("m", rows_max=4, warmup=(ones,)))
    drawn = [feeds["x"] for feeds in runs if feeds["x"].any()]
    assert [x.shape for x in drawn] == [(3, 16)] * 2
    runs.clear()
    prepare(tmp_path / "0", models.mlp(), ModelConfig("m", rows_max=0, warmup=(zeros,)))
    assert runs[1]["x"].shape == (1, 16)


def test_configured_warm_up_runs_where_no_made_up_input_fits(tmp_path, runs):
    said = ModelConfig("m", rows_max=0, warmup=(Warmup("w", 0, (WarmupTensor("x", (1, 37), "zero"),)),))
    prepare(tmp_path, only(37), said)
    assert runs[-1]["x"].shape == (1, 37)


def test_labels_are_part_of_what_is_served(tmp_path):
    prepared = prepare(tmp_path, models.mlp(), labels={"y": ("cat", "dog")})
    assert prepared.spec.labels == {"y": ("cat", "dog")}


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
@pytest.mark.parametrize(
    ("said", "document"), [(ModelConfig("m", device=Device.GPU), {}), (None, {"engine": {"device": "gpu"}})]
)
def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_and_no_cpu(tmp_path, said, document):
    with pytest.raises(NoDevice, match="a GPU is asked for"):
        prepare(tmp_path, models.mlp(), said, document)


def test_a_model_on_the_cpu_may_say_so_where_the_server_prefers_a_gpu(tmp_path):
    document = {"engine": {"device": "gpu", "inline_us_max": 20_000}}
    assert prepare(tmp_path, models.mlp(), ModelConfig("m", device=Device.CPU), document).run_ns > 0


def test_batching_asked_for_with_a_batch_that_fails_is_an_error_at_load_and_not_under_load(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], end=1),
        helper.make_node("Sub", ["size", "one"], ["last"]),
        helper.make_node("Gather", ["table", "last"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["y"]),
    ]
    weights = {"one": np.array([1]), "table": np.zeros((2, 4), np.float32)}
    proto = between(nodes, ["N", 4], ["N", 4], weights)
    assert prepare(tmp_path, proto, ModelConfig("m", rows_max=2, batching=Batching())).spec.rows_max == 2
    with pytest.raises(TurnoutError, match="Gather"):
        prepare(tmp_path / "3", proto, ModelConfig("m", rows_max=3, batching=Batching()))


# What is hostile in a way that admission does not see.


def endless_on(value: str) -> onnx.ModelProto:
    """Return a model whose loop ends soon for x = 0, and never for other `value`s."""
    spinning = models.spinning()
    for node in spinning.graph.node:
        if node.op_type == "ReduceMax":
            node.input[0] = "scaled"
    scale = helper.make_node("Mul", ["x", "huge"], ["scaled"])
    nodes = [scale, *spinning.graph.node]
    del spinning.graph.node[:]
    spinning.graph.node.extend(nodes)
    spinning.graph.initializer.append(numpy_helper.from_array(np.array(float(value), np.float32), "huge"))
    return spinning


def test_a_run_that_ends_only_on_zeros_does_not_hold_up_the_loader_for_ever(tmp_path):
    document = PATIENT | {"admission": {"deadline_s": 0.3}}
    began_s = time.perf_counter()
    with pytest.raises(Failed, match=r"first runs did not finish within 0\.3 s .admission\.deadline_s"):
        prepare(tmp_path, endless_on("1e18"), document=document)
    assert time.perf_counter() - began_s < 60
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_warm_up_of_very_many_sizes_ends_in_time_and_says_so(monkeypatch, caplog):
    times_s = itertools.count()
    monkeypatch.setattr(loader, "perf_counter", lambda: float(next(times_s)))
    ran: list[int] = []

    class Noted:
        def run(self, feeds, _stop):
            ran.append(feeds["x"].shape[0])

    x = TensorSpec("x", DATATYPES["FP32"], (-1, 2))
    spec: Any = type("Spec", (), {"rows_max": 100, "config": ModelConfig("m"), "__str__": lambda _: "m@1"})()
    loader.warm(Noted(), spec, Sample((x,), 1), Stop(), until_s=3.0)  # type: ignore[arg-type]
    assert ran == [100, 1, 2, 3]
    assert "version=m@1 event=warmed_partly sizes=4 of=100" in caplog.text


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [corrupt, gone])
def test_what_onnx_runtime_says_of_a_file_rises_as_our_error_without_the_path(
    tmp_path, harm: Callable[[Path], None]
):
    """Its own classes have no base but Exception; one that rose ended the task that looks at the repository."""
    path = models.place(tmp_path, "m", 1, models.mlp()) / "1" / "model.onnx"
    harm(path)
    with pytest.raises(Failed, match="it cannot be loaded: ") as caught:
        loader.prepare(Artifact("m", 1, "d", path, 1), ModelConfig("m"), {}, config.parse({}))
    assert str(tmp_path) not in str(caught.value)
    assert "onnxruntime/core" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_memory_of_a_version_is_about_that_of_its_weights(tmp_path):
    """Not less because somebody else's memory was given back meanwhile."""
    freed = np.ones((40, 1 << 18))
    del freed
    prepared = prepare(tmp_path, models.heavy(20), ModelConfig("m", rows_max=0))
    assert 15 << 20 < prepared.memory_bytes < 60 << 20
