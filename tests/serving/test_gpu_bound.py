"""Does a batch that goes through buffers on a device give what a plain run gives, whatever else is under way?"""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from serving.errors import Failed
from serving.gpu.bound import RUNS_BOUND_MAX, BoundAccelerator, NoGraphs, sizes, slot_size
from serving.gpu.cuda import all_on
from serving.gpu.driver import Driver
from serving.gpu.side import Host
from serving.wire import DATATYPES
from tests import models
from tests.bound import batch, on_fake_cuda, opened
from tests.cuda import FakeCuda

ROWS_MAX = 6
FIXED = sorted(set(DATATYPES) - {"BYTES"})


def pair() -> Any:
    """Return a [N, 3] and b [N, 1, 2] in; a doubled, and the sum of each row of b out."""
    nodes = [
        helper.make_node("Add", ["a", "a"], ["y"]),
        helper.make_node("ReduceSum", ["b", "axes"], ["z"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("b", TensorProto.INT64, ["N", 1, 2]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("z", TensorProto.INT64, ["N"]),
        ],
        [numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def picking() -> Any:
    """Return which of two rows in as `x` [N], that row out; any other number is an error."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "picking",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("pair"), pair(), ROWS_MAX)


@pytest.mark.parametrize("datatype", FIXED)
def test_every_datatype_with_elements_of_one_size_passes_through_unchanged(tmp_path, datatype):
    session, spec = opened(tmp_path, models.identity(datatype, ("N", 3)), 4)
    accelerator = BoundAccelerator(session, spec, Host(), 0)
    slot = accelerator.slot()
    rng = np.random.default_rng(3)
    dtype = DATATYPES[datatype].dtype
    x = (
        rng.integers(0, 2, (3, 3)).astype(dtype)
        if datatype == "BOOL"
        else rng.normal(size=(3, 3)).astype(dtype)
    )
    (y,) = batch(accelerator, slot, x=x)
    assert y.dtype == dtype
    assert y.tobytes() == x.tobytes()
    assert not np.shares_memory(y, slot.given[0].array)


Batches = st.lists(
    st.tuples(st.integers(1, ROWS_MAX), st.integers(0, 2), st.booleans()), min_size=1, max_size=12
)


def pipelined(accelerator: BoundAccelerator, batches: list[tuple[int, int, bool]]) -> None:
    """Send batches through three slots, each as soon as its slot is free, and look at what comes back."""
    slots = [accelerator.slot() for _ in range(3)]
    expected: dict[int, tuple[int, Any, Any]] = {}

    def collect(at: int) -> None:
        rows, a, b = expected.pop(at)
        y, z = accelerator.wait(slots[at], rows)
        assert y.tolist() == (a + a).tolist()
        assert z.tolist() == b.sum(axis=(1, 2)).tolist()

    for number, (rows, at, at_once) in enumerate(batches):
        if at in expected:
            collect(at)
        a = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + 100 * number
        b = np.arange(rows * 2).reshape(rows, 1, 2) + 1000 * number
        slots[at].inputs["a"][:rows], slots[at].inputs["b"][:rows] = a, b
        accelerator.stage(slots[at], rows)
        accelerator.launch(slots[at], rows)
        expected[at] = rows, a, b
        if at_once:
            collect(at)
    for at in sorted(expected):
        collect(at)


@given(batches=Batches, graphs=st.booleans(), seed=st.integers(0, 1 << 32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_answers_are_right_however_the_device_orders_what_it_may(paired, batches, graphs, seed):
    session, spec = paired
    library = FakeCuda(choose=random.Random(seed).randrange)
    accelerator, _ = on_fake_cuda(session, spec, library, graphs=graphs)
    pipelined(accelerator, batches)
    accelerator.close()
    del accelerator
    assert library.used == 0
    assert not library.pinned
    assert len(library.streams) == 2  # The driver's own one, and that of the session's runs.
    assert not library.recorded


def test_a_device_that_does_not_follow_the_marks_is_seen_to_be_wrong(paired, monkeypatch):
    monkeypatch.setattr(Driver, "follow", lambda _self, _stream, _event: None)
    session, spec = paired
    wrong = 0
    for first in range(4):
        library = FakeCuda(choose=lambda count, first=first: first % count)
        try:
            pipelined(on_fake_cuda(session, spec, library)[0], [(3, 0, True), (5, 0, True), (2, 1, False)])
        except AssertionError:
            wrong += 1
    assert wrong


@given(rows=st.lists(st.integers(1, ROWS_MAX), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_each_size_of_each_slot_is_one_graph_and_is_captured_before_it_is_needed(paired, rows):
    session, spec = paired
    accelerator, queued = on_fake_cuda(session, spec, FakeCuda(), graphs=True)
    slots = [accelerator.slot() for _ in range(3)]
    captured = [number for number, _ in queued.runs]
    assert len(set(captured)) == len(captured) == 3 * len(sizes(ROWS_MAX))
    assert min(captured) > 0  # ONNX Runtime keeps 0 for itself, and -1 is none.
    queued.runs.clear()
    for each in rows:
        a, b = np.ones((each, 3), np.float32), np.ones((each, 1, 2), np.int64)
        batch(accelerator, slots[each % 3], a=a, b=b)
    assert {number for number, _ in queued.runs} <= set(captured)
    assert not any(waits for _, waits in queued.runs)


def test_without_graphs_nothing_is_captured_and_exactly_the_rows_run(paired):
    session, spec = paired
    accelerator, queued = on_fake_cuda(session, spec, FakeCuda())
    slot = accelerator.slot()
    assert queued.runs == []
    batch(accelerator, slot, a=np.ones((3, 3), np.float32), b=np.ones((3, 1, 2), np.int64))
    assert queued.runs == [(-1, False)]
    assert list(slot.runs) == [3]


@given(rows_max=st.integers(1, 4096), part=st.floats(0, 1))
def test_a_batch_is_padded_to_less_than_twice_its_rows(rows_max, part):
    captured = sizes(rows_max)
    assert list(captured) == sorted(set(captured))
    assert captured[-1] == rows_max
    rows = max(1, int(part * rows_max))
    assert rows <= next(size for size in captured if size >= rows) < 2 * rows


@pytest.mark.parametrize("graphs", [False, True])
def test_what_the_model_refuses_breaks_no_other_batch(tmp_path, graphs):
    session, spec = opened(tmp_path, picking(), 4)
    accelerator = BoundAccelerator(session, spec, Host(), 0, graphs=graphs)
    slot = accelerator.slot()
    assert batch(accelerator, slot, x=[1, 0])[0].tolist() == [[3, 4], [1, 2]]
    with pytest.raises(Failed, match="the model failed: Non-zero status code .*indices") as told:
        batch(accelerator, slot, x=[0, 0, 7, 9])
    assert "/onnxruntime" not in str(told.value)
    with pytest.raises(Failed, match="no batch of 4 rows is under way"):
        accelerator.wait(slot, 4)
    # The rows behind these three are those of the batch that was refused, unless they are padded with zeros.
    assert batch(accelerator, slot, x=[1, 1, 1])[0].tolist() == [[3, 4]] * 3


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("cuMemcpyHtoDAsync_v2", 1),
        ("cuEventRecord", 2),
        ("cuMemcpyDtoHAsync_v2", 1),
        ("cuEventSynchronize", 1),
    ],
)
def test_what_the_device_refuses_breaks_no_other_batch(paired, call, code):
    session, spec = paired
    library = FakeCuda()
    accelerator, _ = on_fake_cuda(session, spec, library)
    slot = accelerator.slot()
    inputs = {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 1, 2), np.int64)}
    library.fails[call] = code
    with pytest.raises(Failed, match=f"the device failed: {call}: CUDA_ERROR"):
        batch(accelerator, slot, **inputs)
    library.fails.clear()
    assert batch(accelerator, slot, **inputs)[1].tolist() == [2, 2]


def test_a_model_that_cannot_be_captured_says_so_when_its_buffers_are_made(tmp_path):
    session, spec = opened(tmp_path, picking(), 4)

    class Refusing:
        io_binding = session.io_binding

        def run_with_iobinding(self, _binding: Any, _options: Any) -> None:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    accelerator = BoundAccelerator(Refusing(), spec, Host(), 0, graphs=True)
    with pytest.raises(
        NoGraphs, match="cannot be captured as CUDA graphs: the model failed: CUDA failure 900"
    ):
        accelerator.slot()


def test_buffers_that_do_not_fit_are_an_error_in_words(paired):
    session, spec = paired
    accelerator, _ = on_fake_cuda(session, spec, FakeCuda(total=slot_size(spec)))
    accelerator.slot()
    with pytest.raises(
        Failed, match="its buffers cannot be allocated: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"
    ):
        accelerator.slot()


@pytest.mark.parametrize("short", [1, 3 * 4 * ROWS_MAX, 64])
def test_buffers_that_do_not_all_fit_are_given_back(paired, short):
    session, spec = paired
    library = FakeCuda(total=slot_size(spec) - short)
    accelerator, _ = on_fake_cuda(session, spec, library)
    with pytest.raises(Failed, match="its buffers cannot be allocated"):
        accelerator.slot()
    assert library.used == 0


def test_a_session_that_reads_or_writes_elsewhere_is_not_bound(paired):
    session, _ = paired
    assert all_on(session, "cpu") and not all_on(session, "cuda")


def test_a_slot_takes_what_is_said_of_it(paired):
    session, spec = paired
    library = FakeCuda()
    accelerator, _ = on_fake_cuda(session, spec, library)
    accelerator.slot()
    assert library.used == slot_size(spec) == ROWS_MAX * (3 * 4 + 2 * 8 + 3 * 4 + 8)


def test_what_is_given_back_lets_the_session_go(tmp_path):
    session, spec = opened(tmp_path, picking(), 4)
    host = Host()
    accelerator = BoundAccelerator(session, spec, host, 0, graphs=True)
    slot = accelerator.slot()
    batch(accelerator, slot, x=[1])
    gone = weakref.ref(session._sess)
    accelerator.close()
    accelerator.close()
    assert host.held_bytes == 0
    del session, accelerator, slot
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(("code", "lost"), [(900, False), (700, True)])
def test_a_device_whose_streams_failed_can_be_closed(paired, caplog, code, lost):
    session, spec = paired
    library = FakeCuda()
    accelerator, _ = on_fake_cuda(session, spec, library)
    accelerator.slot()
    library.fails["cuStreamSynchronize"] = code
    accelerator.close()
    assert (library.used > 0) == lost, "nothing can be given back to a GPU that is lost"
    assert ("event=buffers_kept" in caplog.text) == lost


def test_bindings_that_are_remembered_have_a_bound(tmp_path):
    session, spec = opened(tmp_path, picking(), RUNS_BOUND_MAX + 2)
    accelerator = BoundAccelerator(session, spec, Host(), 0)
    slot = accelerator.slot()
    for rows in range(1, RUNS_BOUND_MAX + 3):
        assert batch(accelerator, slot, x=[1] * rows)[0].shape == (rows, 2)
    assert len(slot.runs) <= RUNS_BOUND_MAX
