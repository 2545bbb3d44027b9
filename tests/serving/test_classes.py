"""Are the classes of an output its highest values, written as Triton writes them?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from serving.classes import ELEMENTS_MAX, SORTED_MAX, STRINGS_MAX, Classed, classed, top, written
from serving.errors import Invalid, TooLarge
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.wire import DATATYPES, Call, Results, TensorIn, TensorOut, TensorSpec

NUMBERS = [each for each in DATATYPES.values() if each.name not in ("BYTES", "BOOL", "BF16")]
VALUES = st.sampled_from(NUMBERS).flatmap(lambda each: arrays.arrays(each.dtype, st.integers(0, 40)))


def naive_top(values: NDArray[Any], count: int) -> list[int]:
    """Return where the highest values are: the specification."""
    floats = [-math.inf if value != value else value for value in values.tolist()]  # noqa: PLR0124 - NaN.
    return sorted(range(len(values)), key=lambda index: (-floats[index], index))[:count]


@given(VALUES, st.data())
def test_the_top_is_what_sorting_everything_finds(values: NDArray[Any], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    assert top(values[np.newaxis], count).tolist() == [naive_top(values, count)]


@pytest.mark.parametrize("datatype", NUMBERS, ids=lambda each: each.name)
@pytest.mark.parametrize("few", [3, 1 << 20])
def test_the_top_of_many_values_is_found_without_sorting_them_all(datatype: Any, few: int) -> None:
    """Also where there are many equal ones."""
    drawn = np.random.default_rng(few).integers(0, few, 5 * SORTED_MAX)
    values = (drawn % {1: 120, 2: 30_000}.get(datatype.itemsize, few)).astype(datatype.dtype)
    for count in (1, 7, SORTED_MAX, len(values)):
        assert top(values[np.newaxis], count).tolist() == [naive_top(values, count)]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([0.1, 0.7, 0.2], np.float32), ["0.700000:1:dog", "0.200000:2", "0.100000:0:cat"]),
        (np.array([3, -4], np.int64), ["3:0:cat", "-4:1:dog"]),
        (np.array([(1 << 64) - 1], np.uint64), ["18446744073709551615:0:cat"]),
        (np.array([np.nan, -np.inf, 1], np.float64), ["1.000000:2", "nan:0:cat", "-inf:1:dog"]),
        (np.array([2, 1], DATATYPES["BF16"].dtype), ["2.000000:0:cat", "1.000000:1:dog"]),
        (np.array([], np.float32), []),
    ],
    ids=str,
)
def test_a_class_is_its_value_its_index_and_its_label_if_it_has_one(values: Any, says: list[str]) -> None:
    assert written(values[np.newaxis], len(values), ("cat", "dog", "")) == says


def model(**outputs: str) -> ModelSpec:
    """Return a model with outputs of these datatypes."""
    specs = tuple(TensorSpec(name, DATATYPES[each], (-1, -1)) for name, each in outputs.items())
    return ModelSpec(Artifact("m", 1, "", None, 0), ModelConfig("m"), (), specs, 8, {"y": ("cat", "dog")})  # type: ignore[arg-type]


def call(*outputs: TensorOut) -> Call:
    """Return a call for these outputs."""
    return Call((TensorIn("x", DATATYPES["FP32"], (1,)),), outputs)


def test_a_call_without_classes_is_answered_as_ever() -> None:
    assert classed(model(y="FP32"), call(TensorOut("y"))) is None
    assert classed(model(y="FP32"), Call(())) is None


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_what_is_no_number_has_no_classes(datatype: str) -> None:
    with pytest.raises(Invalid, match=f"output 'y' is {datatype}; classification takes numbers"):
        classed(model(y=datatype), call(TensorOut("y", classes=1)))


def taken(rows: int, array: NDArray[Any], count: int, start: int, stop: int) -> Results:
    """Return what answers rows `start` to `stop` where `count` classes are asked for."""
    spec = model(y="FP32", z="FP32")
    found = classed(spec, call(TensorOut("y", classes=count), TensorOut("z")))
    assert isinstance(found, Classed)
    return found.results(Results("m", "1", spec.outputs, [array, array], rows), start, stop)


def test_each_row_of_a_batch_has_its_own_classes_and_other_outputs_stay() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    results = taken(3, array, 2, 1, 3)
    assert [each.datatype.name for each in results.outputs] == ["BYTES", "FP32"]
    assert results.shape(0, 0, 2) == (2, 2)
    assert results.part(0, 0, 2).tolist() == [["7.000000:3", "6.000000:2"], ["11.000000:3", "10.000000:2"]]
    assert (results.part(1, 0, 2) == array[1:]).all()


def test_an_output_that_is_no_batch_is_one_list_of_classes() -> None:
    results = taken(0, np.arange(6, dtype=np.float32).reshape(2, 3), 9, 0, 0)
    assert results.shape(0, 0, 0) == (6,)
    assert results.part(0, 0, 0)[0] == "5.000000:5"


@pytest.mark.parametrize(("rows", "shape"), [(2, (2, 0)), (0, (0,)), (0, (3, 0))])
def test_nothing_has_no_classes(rows: int, shape: tuple[int, ...]) -> None:
    results = taken(rows, np.zeros(shape, np.float32), 5, 0, rows)
    assert results.shape(0, 0, rows) == ((rows, 0) if rows else (0,))


def test_more_classes_than_can_be_written_at_once_are_refused() -> None:
    with pytest.raises(TooLarge, match=f"classes of 'y'; the limit is {STRINGS_MAX}"):
        taken(0, np.zeros(STRINGS_MAX + 1, np.float32), STRINGS_MAX + 1, 0, 0)
    with pytest.raises(TooLarge, match=f"{ELEMENTS_MAX + 1} elements; the limit is {ELEMENTS_MAX}"):
        taken(0, np.zeros(ELEMENTS_MAX + 1, np.float32), 1, 0, 0)
