"""What gRPC's answers say, however they are put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as v2
from tritonclient.utils import deserialize_bytes_tensor

from serving import answer, calls
from serving.errors import Failed, Invalid, TooLarge
from serving.rpc.encode import encode, stream_answer, stream_error
from serving.wire import DATATYPES, InferRequest, Results, TensorIn, TensorOut, TensorSpec

MAX = 1 << 30
X = TensorIn("x", DATATYPES["FP32"], (1, 4))


def made_for(call, id_: str = "", stamp: bytes = b"7;3;split") -> InferRequest:
    escaped = orjson.dumps(id_)[1:-1]
    request = InferRequest(call, (), None, escaped)  # type: ignore[arg-type]
    request.stamp = stamp
    return request


def results_of(arrays: dict[str, Any], rows: int, version: str = "7") -> Results:
    names = {each.dtype: each for each in DATATYPES.values()}
    specs = tuple(TensorSpec(name, names[array.dtype], array.shape) for name, array in arrays.items())
    return Results("m", version, specs, list(arrays.values()), rows)


def read(parts) -> Any:
    assert all(type(each) is bytes for each in parts)
    return v2.ModelInferResponse.FromString(b"".join(parts))


def array_of(datatype: str, rows: int) -> Any:
    if datatype == "BYTES":
        return np.array([[f"é{row}", ""] for row in range(rows)], object)
    return np.arange(rows * 2).reshape(rows, 2).astype(DATATYPES[datatype].dtype)


@given(
    st.lists(st.sampled_from(sorted(DATATYPES)), min_size=1, max_size=3),
    st.lists(st.text(max_size=140), min_size=1, max_size=4),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([b"", b"7;3;split"]),
)
def test_an_answer_says_who_answers_what_and_why(datatypes, ids, rows, batched, stamp):
    arrays = {f"y{index}": array_of(datatype, rows) for index, datatype in enumerate(datatypes)}
    results = results_of(arrays, rows if batched else 0)
    call = calls.intern((X,))
    for at, id_ in enumerate(ids):
        start, stop = (at % rows, at % rows + 1) if batched else (0, 0)
        said = read(encode(made_for(call, id_, stamp), results, start, stop, MAX))
        assert (said.model_name, said.model_version, said.id) == ("m", "7", id_)
        route = {name: each.string_param.encode() for name, each in said.parameters.items()}
        assert route == ({"turnout_route": stamp} if stamp else {})
        assert [each.name for each in said.outputs] == list(arrays)
        for output, raw, array in zip(said.outputs, said.raw_output_contents, arrays.values(), strict=True):
            part = array[start:stop] if batched else array
            assert tuple(output.shape) == part.shape
            assert DATATYPES[output.datatype].dtype == part.dtype
            if output.datatype == "BYTES":
                got = [each.decode() for each in deserialize_bytes_tensor(raw)]
                assert got == part.ravel().tolist()
            else:
                assert raw == part.tobytes()


def test_only_what_was_asked_for_comes_and_in_the_order_of_asking():
    results = results_of({"a": array_of("FP32", 1), "b": array_of("INT8", 1)}, 1)
    call = calls.intern((X,), (TensorOut("b"), TensorOut("a")))
    assert [each.name for each in read(encode(made_for(call), results, 0, 1, MAX)).outputs] == ["b", "a"]


@given(st.lists(st.booleans(), min_size=2, max_size=6))
def test_requests_of_http_and_of_grpc_in_one_batch_get_an_answer_each_in_their_own_form(kinds):
    results = results_of({"y": array_of("FP32", len(kinds))}, len(kinds))
    call = calls.intern((X,))
    for row, by_rpc in enumerate(kinds):
        request = made_for(call, "id")
        if by_rpc:
            said = read(encode(request, results, row, row + 1, MAX))
            assert said.raw_output_contents[0] == results.arrays[0][row : row + 1].tobytes()
        else:
            assert answer.frame(request, results, row, row + 1).startswith(b"HTTP/1.1 200 OK")


def test_another_route_or_version_is_never_answered_in_the_form_of_the_one_before():
    call = calls.intern((X,))
    for version in ("7", "8", "7"):
        for stamp in (b"7;3;split", b"7;4;split"):
            results = results_of({"y": array_of("FP32", 1)}, 1, version)
            said = read(encode(made_for(call, stamp=stamp), results, 0, 1, MAX))
            assert (said.model_version, said.parameters["turnout_route"].string_param) == (
                version,
                stamp.decode(),
            )


def test_what_cannot_be_answered_is_said_as_over_http():
    results = results_of({"y": array_of("FP32", 1)}, 1)
    with pytest.raises(Invalid, match="no output 'z'"):
        encode(made_for(calls.intern((X,), (TensorOut("z"),))), results, 0, 1, MAX)
    with pytest.raises(TooLarge, match=r"limits\.answer_bytes_max"):
        encode(made_for(calls.intern((X,))), results, 0, 1, 10)
    strings = results_of({"y": array_of("BYTES", 1)}, 1)
    with pytest.raises(TooLarge, match=r"limits\.answer_bytes_max"):
        encode(made_for(calls.intern((X,))), strings, 0, 1, 10)
    odd = Results("m", "7", results.outputs, [np.zeros((1, 2), np.float64)], 1)
    with pytest.raises(Failed, match="is not of the size"):
        encode(made_for(calls.intern((X,))), odd, 0, 1, MAX)


@given(st.text(max_size=140))
def test_in_a_stream_answers_are_final_and_errors_name_their_request(id_):
    results = results_of({"y": array_of("FP32", 1)}, 1)
    parts = stream_answer(encode(made_for(calls.intern((X,)), id_), results, 0, 1, MAX))
    said = v2.ModelStreamInferResponse.FromString(b"".join(parts))
    assert not said.error_message
    assert said.infer_response.parameters["triton_final_response"].bool_param
    assert (said.infer_response.id, len(said.infer_response.raw_output_contents)) == (id_, 1)
    said = v2.ModelStreamInferResponse.FromString(
        b"".join(stream_error(Failed("why?"), orjson.dumps(id_)[1:-1]))
    )
    assert (said.error_message, said.infer_response.id) == ("why?", id_)
    assert said.infer_response.parameters["triton_final_response"].bool_param
