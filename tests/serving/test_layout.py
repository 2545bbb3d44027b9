"""Laws of fitting a call to a model: what is accepted is exactly what the signature says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Invalid
from serving.layout import bind
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.slots import SLOT_BYTES_MIN, Slots
from serving.wire import DATATYPES, Call, InferRequest, TensorIn, TensorOut, TensorSpec

FP32, INT64, BYTES = DATATYPES["FP32"], DATATYPES["INT64"], DATATYPES["BYTES"]


def spec(rows_max: int = 8, declared: int | None = 8) -> ModelSpec:
    return ModelSpec(
        Artifact("fraud", 7, "d", Path("model.onnx"), 1),
        ModelConfig("fraud", rows_max=declared),
        (TensorSpec("x", FP32, (-1, 3)), TensorSpec("k", INT64, (-1, 1), optional=True)),
        (TensorSpec("y", FP32, (-1, 2)), TensorSpec("z", FP32, (-1,))),
        rows_max,
    )


def call(*inputs: TensorIn, outputs: tuple[TensorOut, ...] | None = None) -> Call:
    return Call(inputs, outputs)


def x(*shape: int) -> TensorIn:
    return TensorIn("x", FP32, shape)


def made(model: ModelSpec, rows: int, rng: np.random.Generator) -> tuple[InferRequest, np.ndarray]:
    values = rng.standard_normal((rows, 3)).astype(np.float32)
    one = call(x(rows, 3))
    request = InferRequest(one, [values.tobytes()], None)  # type: ignore[arg-type]
    bind(model, one).fit(request)
    return request, values


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 1 << 32))
def test_a_batch_holds_its_requests_rows_in_their_order(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [made(spec(), rows, rng) for rows in sizes]
    requests = [request for request, _ in pairs]
    feeds = requests[0].layout.feeds(requests, sum(sizes))
    assert np.array_equal(feeds["x"], np.concatenate([values for _, values in pairs]))


@given(
    st.lists(st.text(max_size=5), min_size=2, max_size=2),
    st.lists(st.text(max_size=5), min_size=1, max_size=1),
)
def test_strings_are_joined_like_numbers(first: list[str], second: list[str]) -> None:
    model = ModelSpec(
        Artifact("words", 1, "d", Path("m"), 1), ModelConfig("words"),
        (TensorSpec("x", BYTES, (-1,)),), (TensorSpec("y", BYTES, (-1,)),), 8,
    )  # fmt: skip
    requests = []
    for words in (first, second):
        one = call(TensorIn("x", BYTES, (len(words),)))
        requests.append(InferRequest(one, [np.array(words, object)], None))  # type: ignore[arg-type]
        bind(model, one).fit(requests[-1])
    assert requests[0].layout.feeds(requests, 3)["x"].tolist() == first + second


def test_a_batch_of_slots_side_by_side_is_viewed_and_not_copied() -> None:
    wide = ModelSpec(
        Artifact("wide", 1, "d", Path("m"), 1), ModelConfig("wide"),
        (TensorSpec("x", FP32, (-1, SLOT_BYTES_MIN // 4)),), (TensorSpec("y", FP32, (-1, 2)),), 8,
    )  # fmt: skip
    one, slots, requests = call(x(1, SLOT_BYTES_MIN // 4)), Slots(), []
    for value in range(3):
        room = slots.take(SLOT_BYTES_MIN)
        assert room is not None
        room[:] = np.full(SLOT_BYTES_MIN // 4, value, np.float32).tobytes()
        requests.append(InferRequest(one, [room], None))  # type: ignore[arg-type]
        bind(wide, one).fit(requests[-1])
    feed = requests[0].layout.feeds(requests, 3)["x"]
    assert feed[:, 0].tolist() == feed[:, -1].tolist() == [0, 1, 2]
    assert np.shares_memory(feed, np.frombuffer(requests[1].payloads[0], np.uint8))
    requests.reverse()
    assert requests[0].layout.feeds(requests, 3)["x"][:, 0].tolist() == [2, 1, 0]


def test_a_request_alone_is_viewed_and_not_copied() -> None:
    model = spec()
    buffer = memoryview(bytearray(24))
    one = call(x(2, 3))
    request = InferRequest(one, [buffer], None)  # type: ignore[arg-type]
    bind(model, one).fit(request)
    assert np.shares_memory(request.layout.feeds([request], 2)["x"], np.frombuffer(buffer, np.uint8))


@given(st.lists(st.integers(0, 12), max_size=3))
def test_a_shape_fits_if_and_only_if_the_signature_admits_it(shape: list[int]) -> None:
    admitted = len(shape) == 2 and shape[1] == 3 and shape[0] <= 8
    try:
        bound = bind(spec(), call(x(*shape)))
    except Invalid as error:
        assert not admitted
        assert "[-1, 3]" in str(error) or "max_batch_size is 8" in str(error)
    else:
        assert admitted
        assert bound.rows == shape[0]


def test_a_batch_beyond_a_limit_that_nobody_set_runs_alone() -> None:
    bound = bind(spec(declared=None), call(x(100, 3)))
    assert bound.key is None
    assert bound.rows == 0


def test_an_empty_batch_runs_alone() -> None:
    assert bind(spec(), call(x(0, 3))).key is None


def test_requests_with_different_inputs_do_not_share_a_run() -> None:
    keyed = bind(spec(), call(x(1, 3), TensorIn("k", INT64, (1, 1))))
    assert keyed.key != bind(spec(), call(x(1, 3))).key


def test_the_order_of_inputs_in_a_request_does_not_matter() -> None:
    k = TensorIn("k", INT64, (1, 1))
    one, other = bind(spec(), call(x(1, 3), k)), bind(spec(), call(k, x(1, 3)))
    assert one.key == other.key
    request = InferRequest(call(k, x(1, 3)), [b"k", b"x"], None)  # type: ignore[arg-type]
    other.fit(request)
    assert list(request.payloads) == [b"x", b"k"]


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (call(), "input 'x' is missing; the model takes FP32 [-1, 3]"),
        (call(x(1, 3), TensorIn("q", FP32, (1,))), "has no input 'q'; its inputs: x, k"),
        (call(TensorIn("x", INT64, (1, 3))), "input 'x': expected FP32, got INT64"),
        (call(x(1, 3), TensorIn("k", INT64, (2, 1))), "differ in their first dimension, the batch: x 1, k 2"),
        (call(x(1, 3), outputs=(TensorOut("w"),)), "has no output 'w'; its outputs: y, z"),
    ],
)
def test_what_does_not_fit_says_so(one: Call, says: str) -> None:
    with pytest.raises(Invalid, match="^.*" + says.replace("[", "\\[") + "$"):
        bind(spec(), one)


def test_asked_outputs_are_found_in_the_models_order() -> None:
    assert bind(spec(), call(x(1, 3), outputs=(TensorOut("z"), TensorOut("y")))).wanted == (1, 0)
    assert bind(spec(), call(x(1, 3))).wanted == (0, 1)
