"""Are ONNX's own backend cases answered through the gateway as ONNX Runtime answers them directly?

Only what ONNX Runtime's CPU provider itself loads and runs counts; nothing is left out by name.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient

from serving.wire import BY_ONNX_TYPE
from tests.e2e import talking_rpc
from tests.e2e.asking import ask, directly, same
from tests.models import place
from tests.running import Running

STRIDE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 7
"""Every seventh of the 1,884 cases by name: all of them take a minute where two cores are busy."""
READY_S_MAX = 600.0
"""All cases are 2,515 models, each of which is tried before it is served: four minutes on a busy machine."""
MADE_UP = "its first run failed"
"""How admission refuses a graph of fixed shapes that does not take zeros and ones: it wants real values."""


@dataclass(frozen=True)
class Case:
    """A model, inputs for it, and what ONNX Runtime itself makes of them."""

    name: str
    model: onnx.ModelProto
    session: ort.InferenceSession
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]


def _attempt(name: str, model: onnx.ModelProto, arrays: list[Any]) -> Case | None:
    """Run a case directly; None if it is none for us: not plain tensors of V2's datatypes, or it fails."""
    try:
        session = directly(model.SerializeToString())
        nodes = [*session.get_inputs(), *session.get_outputs()]
        if not all(node.type in BY_ONNX_TYPE for node in nodes):
            return None
        if len(arrays) != len(session.get_inputs()) or not all(
            isinstance(each, np.ndarray) for each in arrays
        ):
            return None
        inputs = {node.name: array for node, array in zip(session.get_inputs(), arrays, strict=True)}
        names = [node.name for node in session.get_outputs()]
        return Case(name, model, session, inputs, dict(zip(names, session.run(names, inputs), strict=True)))
    except Exception:  # ONNX Runtime has a class per status, and no base for them.
        return None


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    """Return the sampled cases that ONNX Runtime passes, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Its cases overflow and divide by zero on purpose.
        every = sorted(collect_testcases(None), key=lambda case: case.name)
    sample = []
    for case in every[::STRIDE]:
        assert case.model is not None
        assert case.data_sets is not None
        sample.append(_attempt(case.name, case.model, list(case.data_sets[0][0])))
    return {case.name: case for case in sample if case is not None}


def _opened(case: Case) -> Case | None:
    """Return the same case with the first dimension of every input and output open, if it still runs."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if not dims:
            return None
        dims[0].dim_param = "N"
    return _attempt(f"{case.name}.open", model, list(case.inputs.values()))


@pytest.fixture(scope="module")
def opened(cases: dict[str, Case]) -> dict[str, Case]:
    """Return those cases of which the loader has to find out whether they may be batched."""
    return {case.name: case for case in map(_opened, cases.values()) if case is not None}


@pytest.fixture(scope="module")
def running(
    cases: dict[str, Case], opened: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cases")
    for case in [*cases.values(), *opened.values()]:
        place(folder / "models", case.name, 1, case.model)
    with Running(folder / "models", folder / "state", ready_s_max=READY_S_MAX) as running:
        yield running


@pytest.fixture(scope="module")
def served(running: Running, cases: dict[str, Case], opened: dict[str, Case]) -> list[Case]:
    """Return the cases that admission let in."""
    loaded = running.gateway.shelf.loaded.servables
    return [case for case in [*cases.values(), *opened.values()] if case.name in loaded]


def test_admission_refuses_none_but_those_that_want_real_values(
    running, cases, opened, record_testsuite_property
):
    refused = {model: reason for (model, _), (state, reason) in running.index().items() if state != "READY"}
    record_testsuite_property("refused at admission", len(refused))
    assert all(MADE_UP in reason for reason in refused.values()), refused
    assert not set(refused) & set(opened)
    assert len(refused) <= len(cases) // 20, refused


def test_there_are_hundreds_of_them_and_every_datatype(served):
    assert len(served) > 300
    spoken = {
        node.type for case in served for node in (*case.session.get_inputs(), *case.session.get_outputs())
    }
    assert spoken >= set(BY_ONNX_TYPE) - {"tensor(bfloat16)"}


def _wrong(served: list[Case], asked: Callable[[Case], Any]) -> dict[str, str]:
    """Ask for every case alone and return what came out wrong, by name."""
    wrong = {}
    for case in served:
        try:
            result = asked(case)
        except Exception as error:  # Whatever it is, it belongs into the list.
            wrong[case.name] = str(error)
            continue
        for name, want in case.outputs.items():
            if not same(result.as_numpy(name), want):
                wrong[case.name] = f"{name}: {result.as_numpy(name)!r} instead of {want!r}"
    return wrong


@pytest.fixture
def count(record_testsuite_property) -> Callable[[str, list[Case], dict[str, str]], None]:
    """Return what leaves a protocol's counts in the report, where the benchmark reads them."""

    def count(protocol: str, asked: list[Case], wrong: dict[str, str]) -> None:
        record_testsuite_property(f"asked: {protocol}", len(asked))
        record_testsuite_property(f"right: {protocol}", len(asked) - len(wrong))

    return count


def _wrong_over_http(served: list[Case], running: Running, *, binary: bool) -> dict[str, str]:
    with InferenceServerClient(running.http) as client:
        return _wrong(served, lambda case: ask(client, case.name, case.inputs, *case.outputs, binary=binary))


def test_in_binary_every_bit_is_onnx_runtime_s(served, running, count):
    wrong = _wrong_over_http(served, running, binary=True)
    count("binary", served, wrong)
    assert wrong == {}


def test_over_grpc_every_bit_is_onnx_runtime_s(served, running, count):
    with tritonclient.grpc.InferenceServerClient(running.grpc) as client:
        asked = partial(talking_rpc.ask, client)
        wrong = _wrong(served, lambda case: asked(case.name, case.inputs, *case.outputs))
    count("gRPC", served, wrong)
    assert wrong == {}


def test_in_json_every_number_is_what_onnx_runtime_says(served, running, count):
    sayable = [case for case in served if all(map(_finite, [*case.inputs.values(), *case.outputs.values()]))]
    assert len(sayable) > len(served) * 0.9
    wrong = _wrong_over_http(sayable, running, binary=False)
    count("JSON", sayable, wrong)
    assert wrong == {}


def _finite(array: NDArray[Any]) -> bool:
    """Say whether JSON has words for all of it."""
    return array.dtype.kind not in "fV" or bool(np.isfinite(array.astype(np.float64)).all())


# --- Batching, where the loader itself decided.


def test_what_is_batched_without_being_told_has_rows_of_its_own(running, opened):
    """Two batches of real values, run together, give what they give apart."""
    loaded = running.gateway.shelf.loaded.servables
    batched = [case for case in opened.values() if loaded[case.name]["1"].spec.rows_max and _is_batch(case)]
    assert len(batched) > 50
    mixed = [case.name for case in batched if not _rows_are_apart(case)]
    assert mixed == []


def _is_batch(case: Case) -> bool:
    """Say whether all inputs have the same rows; a request where they have not never shares a run."""
    return len({array.shape[0] for array in case.inputs.values()}) == 1


def _rows_are_apart(case: Case) -> bool:
    other = {name: np.roll(array, 1) for name, array in case.inputs.items()}
    apart = [case.session.run(None, feeds) for feeds in (case.inputs, other)]
    both = {name: np.concatenate([array, other[name]]) for name, array in case.inputs.items()}
    joined = case.session.run(None, both)
    return all(_close(np.concatenate(parts), whole) for *parts, whole in zip(*apart, joined, strict=True))


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Say whether two arrays are equal within rounding: other widths take other vector instructions."""
    if one.dtype.kind not in "fV" or one.shape != other.shape:
        return same(one, other)
    wide, wide_other = one.astype(np.float64), other.astype(np.float64)
    return np.allclose(wide, wide_other, rtol=1e-2 if one.itemsize == 2 else 1e-4, atol=1e-5, equal_nan=True)
