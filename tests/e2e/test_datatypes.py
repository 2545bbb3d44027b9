"""Does every datatype come back from a real model as it was sent, in every shape and both encodings?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient

from serving.wire import DATATYPES
from tests.e2e.asking import ask, same
from tests.models import identity, place
from tests.running import Running

RANK_MAX = 3
EXAMPLES = settings.get_profile("quick").max_examples // 4 or 1
"""Of each datatype and encoding: 28 tests of some 3 ms an example."""


def _name(datatype: str, rank: int) -> str:
    return f"{datatype.lower()}-{rank}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServerClient]:
    folder = tmp_path_factory.mktemp("datatypes")
    for datatype in DATATYPES:
        for rank in range(RANK_MAX + 1):
            dims = [f"d{axis}" for axis in range(rank)]
            place(folder / "models", _name(datatype, rank), 1, identity(datatype, dims))
    with (
        Running(folder / "models", folder / "state") as running,
        InferenceServerClient(running.http) as client,
    ):
        yield client


def _echo(
    client: InferenceServerClient, array: NDArray[Any], datatype: str, *, binary: bool
) -> NDArray[Any] | None:
    result = ask(client, _name(datatype, array.ndim), {"x": array}, "y", binary=binary)
    echoed: NDArray[Any] | None = result.as_numpy("y")
    return echoed


def _arrays(datatype: str, *, binary: bool) -> st.SearchStrategy[NDArray[Any]]:
    """Return arrays of every bit pattern; for JSON without NaN and infinity, for which it has no words."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=RANK_MAX, min_side=0, max_side=4)
    dtype = DATATYPES[datatype].dtype
    if datatype == "BYTES":
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        return hnp.arrays(np.object_, shapes, elements=text)
    if dtype.kind not in "fV":
        return hnp.arrays(dtype, shapes)
    bits = hnp.arrays(np.dtype(f"u{dtype.itemsize}"), shapes).map(lambda array: array.view(dtype))
    return bits if binary else bits.map(_finite)


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(array), array, array.dtype.type(0.1))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_what_goes_in_comes_out(client, datatype, binary):
    @settings(max_examples=EXAMPLES)
    @generated(_arrays(datatype, binary=binary))
    def echoes(array: NDArray[Any]) -> None:
        echoed = _echo(client, array, datatype, binary=binary)
        assert same(echoed, array), (array, echoed)

    echoes()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize(
    "shape", [(), (0,), (0, 4), (2, 0), (0, 0, 0), (1, 1, 1), (65, 1), (3, 2, 1)], ids=str
)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_shapes_with_nothing_in_them_and_without_dimensions_are_kept(client, datatype, shape, binary):
    array = np.full(shape, "é" if datatype == "BYTES" else 1, DATATYPES[datatype].dtype)
    assert same(_echo(client, array, datatype, binary=binary), array)


STRINGS = [
    "",
    "a\0b",
    "\0",
    "Zürich",
    "𝄞",
    "日本語",
    "\u2028",
    '"\\/',
    "\x7f\x01",
    "e\u0301",
    "\ufeff",
    "x" * 70_000,
]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_strings_keep_every_character(client, binary):
    array = np.array(STRINGS, np.object_)
    # ONNX Runtime hands its strings to NumPy as C strings do not: with their NULs, to the last byte.
    assert same(_echo(client, array, "BYTES", binary=binary), array)


EXTREMES = {
    "FP16": np.array([65504, 6e-8, -0.0, 2**-14], np.float16),
    "BF16": np.array([3.3895314e38, 1e-40, -0.0, 1.0078125], ml_dtypes.bfloat16),
    "FP32": np.array([3.4028235e38, 1e-45, -0.0, 0.1, 16777217], np.float32),
    "FP64": np.array([1.7976931348623157e308, 5e-324, -0.0, 0.1, 2**53 + 2], np.float64),
    **{
        name: np.array([np.iinfo(each.dtype).min, np.iinfo(each.dtype).max], each.dtype)
        for name, each in DATATYPES.items()
        if each.dtype.kind in "iu"
    },
}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", EXTREMES)
def test_the_largest_and_the_smallest_survive(client, datatype, binary):
    assert same(_echo(client, EXTREMES[datatype], datatype, binary=binary), EXTREMES[datatype])


def test_eight_mebibytes_come_back(client):
    array = np.random.default_rng(0).integers(0, 1 << 32, (2, 1 << 20), np.uint32).view(np.float32)
    assert same(_echo(client, array, "FP32", binary=True), array)
    bytes_8 = np.random.default_rng(0).integers(0, 256, 8 << 20, np.uint8)
    assert same(_echo(client, bytes_8, "UINT8", binary=True), bytes_8)


def test_a_mebibyte_of_json_comes_back(client):
    array = np.random.default_rng(0).standard_normal((8, 16, 512)).astype(np.float32)
    assert same(_echo(client, array, "FP32", binary=False), array)
