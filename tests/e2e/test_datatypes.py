"""Does every datatype come back from a real model as it was sent, in every shape and encoding?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.http import InferenceServerClient

from serving.rpc import typed
from serving.wire import DATATYPES
from tests.e2e import talking_rpc
from tests.e2e.asking import ask, same
from tests.models import identity, place
from tests.running import Running

RANK_MAX = 3
EXAMPLES = settings.get_profile("quick").max_examples // 4 or 1
"""Of each datatype and encoding: 54 tests of some 3 ms an example."""
UNLIMITED = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]


def _name(datatype: str, rank: int) -> str:
    return f"{datatype.lower()}-{rank}"


class Clients:
    """One client for each protocol."""

    def __init__(self, running: Running) -> None:
        self.http = InferenceServerClient(running.http)
        self.grpc = tritonclient.grpc.InferenceServerClient(running.grpc)
        self.channel = grpc.insecure_channel(running.grpc, UNLIMITED)
        self.stub = GRPCInferenceServiceStub(self.channel)

    def close(self) -> None:
        for each in (self.http, self.grpc, self.channel):
            each.close()

    def echo(self, array: NDArray[Any], datatype: str, encoding: str) -> NDArray[Any] | None:
        """Have an array sent and sent back, either way in the same encoding but for `typed`."""
        model, given = _name(datatype, array.ndim), {"x": array}
        echoed: NDArray[Any] | None
        match encoding:
            case "grpc":
                echoed = talking_rpc.ask(self.grpc, model, given, "y").as_numpy("y")
            case "typed":
                answer = self.stub.ModelInfer(talking_rpc.message(model, given))
                echoed = tritonclient.grpc.InferResult(answer).as_numpy("y")
            case _:
                echoed = ask(self.http, model, given, "y", binary=encoding == "binary").as_numpy("y")
        return echoed


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    folder = tmp_path_factory.mktemp("datatypes")
    for datatype in DATATYPES:
        for rank in range(RANK_MAX + 1):
            dims = [f"d{axis}" for axis in range(rank)]
            place(folder / "models", _name(datatype, rank), 1, identity(datatype, dims))
    with Running(folder / "models", folder / "state") as running, closing(Clients(running)) as clients:
        yield clients


def _arrays(datatype: str, encoding: str) -> st.SearchStrategy[NDArray[Any]]:
    """Return arrays of every bit pattern where bits are sent; elsewhere without NaN and infinity.

    JSON has no words for them, and on the way through Python's floats a NaN may lose its bits.
    """
    shapes = hnp.array_shapes(min_dims=0, max_dims=RANK_MAX, min_side=0, max_side=4)
    dtype = DATATYPES[datatype].dtype
    if datatype == "BYTES":
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        return hnp.arrays(np.object_, shapes, elements=text)
    if dtype.kind not in "fV":
        return hnp.arrays(dtype, shapes)
    bits = hnp.arrays(np.dtype(f"u{dtype.itemsize}"), shapes).map(lambda array: array.view(dtype))
    return bits if encoding in ("binary", "grpc") else bits.map(_finite)


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(array), array, array.dtype.type(0.1))


EVERY = [(datatype, encoding) for datatype in DATATYPES for encoding in ("binary", "json", "grpc")] + [
    (datatype, "typed") for datatype in typed.FIELDS
]


@pytest.mark.parametrize(("datatype", "encoding"), EVERY)
def test_what_goes_in_comes_out(clients, datatype, encoding):
    @settings(max_examples=EXAMPLES)
    @generated(_arrays(datatype, encoding))
    def echoes(array: NDArray[Any]) -> None:
        echoed = clients.echo(array, datatype, encoding)
        assert same(echoed, array), (array, echoed)

    echoes()


@pytest.mark.parametrize(("datatype", "encoding"), EVERY)
@pytest.mark.parametrize(
    "shape", [(), (0,), (0, 4), (2, 0), (0, 0, 0), (1, 1, 1), (65, 1), (3, 2, 1)], ids=str
)
def test_shapes_with_nothing_in_them_and_without_dimensions_are_kept(clients, datatype, shape, encoding):
    array = np.full(shape, "é" if datatype == "BYTES" else 1, DATATYPES[datatype].dtype)
    assert same(clients.echo(array, datatype, encoding), array)


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


@pytest.mark.parametrize("encoding", ["binary", "json", "grpc", "typed"])
def test_strings_keep_every_character(clients, encoding):
    array = np.array(STRINGS, np.object_)
    # ONNX Runtime hands its strings to NumPy as C strings do not: with their NULs, to the last byte.
    assert same(clients.echo(array, "BYTES", encoding), array)


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


@pytest.mark.parametrize(("datatype", "encoding"), [each for each in EVERY if each[0] in EXTREMES])
def test_the_largest_and_the_smallest_survive(clients, datatype, encoding):
    assert same(clients.echo(EXTREMES[datatype], datatype, encoding), EXTREMES[datatype])


@pytest.mark.parametrize("encoding", ["binary", "grpc", "typed"])
def test_eight_mebibytes_come_back(clients, encoding):
    array = np.random.default_rng(0).integers(0, 1 << 32, (2, 1 << 20), np.uint32).view(np.float32)
    array = np.where(np.isnan(array), 0, array)
    assert same(clients.echo(array, "FP32", encoding), array)
    bytes_8 = np.random.default_rng(0).integers(0, 256, 8 << 20, np.uint8)
    assert same(clients.echo(bytes_8, "UINT8", encoding), bytes_8)


def test_a_mebibyte_of_json_comes_back(clients):
    array = np.random.default_rng(0).standard_normal((8, 16, 512)).astype(np.float32)
    assert same(clients.echo(array, "FP32", "json"), array)
