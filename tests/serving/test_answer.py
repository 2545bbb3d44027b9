"""What answers say, as tritonclient and an HTTP client read them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferResult

from serving import answer, calls
from serving.errors import Failed, Invalid
from serving.wire import DATATYPES, InferRequest, Results, TensorOut, TensorSpec


class Nobody:
    """A reply that nobody reads; codecs never call it."""

    def answer(self, request, results, start, stop):
        raise AssertionError

    def fail(self, request, error):
        raise AssertionError


def asking(outputs=None, binary=False, id_=b""):
    return InferRequest(calls.intern((), outputs, binary=binary), (), Nobody(), id_)


def results_of(named, rows=0, model="m"):
    specs = tuple(
        TensorSpec(name, DATATYPES[datatype], array.shape) for name, (datatype, array) in named.items()
    )
    return Results(model, "7", specs, [array for _, array in named.values()], rows)


def split(response):
    """Read a response as an HTTP client would: status line, headers, body."""
    head, body = response.split(b"\r\n\r\n", 1)
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["content-length"]) == len(body)
    return status, headers, body


def read(response):
    """Read a response as tritonclient would."""
    status, headers, body = split(response)
    assert status == "HTTP/1.1 200 OK"
    length = headers.get("inference-header-content-length")
    assert headers["content-type"] == ("application/octet-stream" if length else "application/json")
    return InferResult.from_response_body(body, header_length=int(length) if length else None)


@st.composite
def arrays(draw):
    """Draw a datatype and an array of four rows of it."""
    name = draw(st.sampled_from(sorted(DATATYPES)))
    shape = (4, *draw(st.lists(st.integers(0, 3), max_size=2)))
    values = np.random.default_rng(draw(st.integers(0, 1000))).integers(
        0, 2 if name == "BOOL" else 100, shape
    )
    if name == "BYTES":
        return name, np.array([f"é{n}" for n in values.ravel()], np.object_).reshape(shape)
    scale = 0.37 if DATATYPES[name].dtype.kind in "fV" else 1
    return name, (values * scale).astype(DATATYPES[name].dtype)


ids = st.sampled_from(["", "a", "request-000001", "é", 'q"uote\\'])


@settings(max_examples=150, deadline=None)
@given(st.lists(arrays(), min_size=1, max_size=3), ids, st.data())
def test_every_row_of_a_batch_reads_back_in_tritonclient(drawn, id_, data):
    named = {f"y{n}": each for n, each in enumerate(drawn)}
    chosen = [
        TensorOut(name, binary=data.draw(st.booleans())) for name in data.draw(st.permutations(sorted(named)))
    ]
    call = data.draw(st.sampled_from([asking(), asking(binary=True), asking(tuple(chosen))])).call
    request = InferRequest(call, (), Nobody(), json.dumps(id_).encode()[1:-1])
    results = results_of(named, rows=4)
    for start, stop in ((0, 1), (1, 4), (0, 4), (2, 2)):
        read_back = read(answer.frame(request, results, start, stop))
        document = read_back.get_response()
        assert list(document) == ["model_name", "model_version", *(["id"] if id_ else []), "outputs"]
        assert (document["model_name"], document["model_version"], document.get("id", "")) == ("m", "7", id_)
        order = [each.name for each in call.outputs or ()] or list(named)
        assert [each["name"] for each in document["outputs"]] == order
        for name in order:
            got, expected = read_back.as_numpy(name), named[name][1][start:stop]
            assert got.shape == expected.shape
            # tritonclient leaves BYTES in binary as bytes.
            texts = [each.decode() if isinstance(each, bytes) else each for each in got.ravel().tolist()]
            assert texts == expected.ravel().tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(arrays(), min_size=1, max_size=3), ids, st.booleans())
def test_a_frame_is_a_head_and_the_encoded_body(drawn, id_, binary):
    request = asking(binary=binary, id_=json.dumps(id_).encode()[1:-1])
    results = results_of({f"y{n}": each for n, each in enumerate(drawn)}, rows=4)
    encoded = answer.encode(request, results, 1, 3)
    _, headers, body = split(answer.frame(request, results, 1, 3))
    assert b"".join(encoded.parts) == body
    assert headers["content-type"] == encoded.content_type
    length = headers.get("inference-header-content-length")
    assert (
        (int(length) if length else None)
        == encoded.json_bytes
        == (None if not binary else encoded.json_bytes)
    )
    assert (length is not None) == binary


def test_the_memory_of_layouts_never_mixes_up_answers():
    one = np.arange(4, dtype=np.float32)
    outputs = (TensorSpec("y", DATATYPES["FP32"], (-1,)),)
    cases = []
    for shape in ((4, 1), (4,), (1, 4), (2, 2)):
        for rows in {0, shape[0]}:
            for version in ("7", "8"):
                for id_ in (b"", b"a", b"bb", b"cc"):
                    results = Results("m", version, outputs, [one.reshape(shape)], rows)
                    cases.append((asking(binary=True, id_=id_), results, shape))
    for request, results, shape in [*cases, *reversed(cases)]:
        read_back = read(answer.frame(request, results, 0, results.rows))
        document = read_back.get_response()
        assert (document["model_version"], document.get("id", "")) == (results.version, request.id.decode())
        assert read_back.as_numpy("y").tolist() == one.reshape(shape).tolist()


def test_a_call_with_an_endless_parameter_is_not_remembered():
    results = results_of({"y": ("FP32", np.zeros(2, np.float32))})
    call = calls.intern((), binary=True, parameters=(("route", "x" * 100_000),))
    held = sys.getrefcount(call)
    assert read(answer.frame(InferRequest(call, (), Nobody()), results, 0, 0)).as_numpy("y").tolist() == [
        0,
        0,
    ]
    del results
    assert sys.getrefcount(call) == held


def test_another_signature_under_the_same_name_is_noticed():
    for name in ("y", "z"):
        results = results_of({name: ("FP32", np.zeros(2, np.float32))})
        assert read(answer.frame(asking(binary=True), results, 0, 0)).as_numpy(name).tolist() == [0, 0]


def test_scalars_and_empty_tensors_are_answered():
    named = {
        "s": ("INT64", np.array(5)),
        "e": ("FP32", np.zeros((0, 4), np.float32)),
        "b": ("BYTES", np.empty((0,), np.object_)),
    }
    for binary in (False, True):
        read_back = read(answer.frame(asking(binary=binary), results_of(named), 0, 0))
        assert [read_back.as_numpy(name).shape for name in named] == [(), (0, 4), (0,)]
        assert read_back.as_numpy("s").item() == 5


def test_names_are_quoted_as_json_demands():
    results = results_of({'y"\n': ("FP32", np.zeros(1, np.float32))}, model="m\\é")
    document = read(answer.frame(asking(binary=True), results, 0, 0)).get_response()
    assert (document["model_name"], document["outputs"][0]["name"]) == ("m\\é", 'y"\n')


def test_an_output_that_the_model_has_not_is_refused_with_those_that_it_has():
    results = results_of({"y": ("FP32", np.zeros(1, np.float32)), "z": ("FP32", np.zeros(1, np.float32))})
    with pytest.raises(Invalid, match="the model has no output 'q'; its outputs are: y, z"):
        answer.frame(asking((TensorOut("q"),)), results, 0, 0)


@pytest.mark.parametrize("names", ["y", "yz"])
def test_an_output_of_the_wrong_datatype_fails_instead_of_breaking_the_connection(names):
    results = results_of({name: ("FP32", np.zeros(1, np.float64)) for name in names})
    with pytest.raises(Failed, match="output 'y' is not of the size that its shape and datatype say"):
        answer.frame(asking(binary=True), results, 0, 0)


def test_nan_fails_in_json_and_passes_in_binary():
    results = results_of({"y": ("FP32", np.array([np.nan], np.float32))})
    with pytest.raises(Failed, match="ask for it in binary"):
        answer.frame(asking(), results, 0, 0)
    assert np.isnan(read(answer.frame(asking(binary=True), results, 0, 0)).as_numpy("y")[0])
