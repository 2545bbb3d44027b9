"""What binary requests are understood as, and that the short cut never understands another thing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput

from serving import codec_binary, codec_json
from serving.config import Limits
from serving.errors import Invalid, TooLarge, TurnoutError
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.wire import DATATYPES, TensorSpec

LIMITS = Limits()
TENSOR = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
RAW = struct.pack("<2f", 1, 2)


def plain(payloads):
    return [each.tolist() if isinstance(each, np.ndarray) else bytes(each) for each in payloads]


def outcome(decode, *arguments: Any):
    """Return what `decode` makes of its arguments, comparable, be it a request or an error."""
    try:
        call, payloads, id_ = decode(*arguments)
    except TurnoutError as error:
        return type(error), str(error)
    return id(call), plain(payloads), orjson.loads(b'"%b"' % id_)  # Equal calls are one object.


def request(tensors=(TENSOR,), blob=RAW, **fields: Any):
    header = json.dumps({**fields, "inputs": list(tensors)}).encode()
    return header + blob, len(header)


ids = st.sampled_from(
    [
        '"a"',
        '"b"',
        '""',
        r'"q\"uote"',
        r'"back\\"',
        r'"\u0061"',
        '"é"',
        '"tab\\t"',
        "null",
        "7",
        '"' + "x" * 50 + '"',
        '"{}"',
    ]
)
id_members = st.builds(
    lambda key, colon, value: key + colon + value,
    st.sampled_from(['"id"', r'"\u0069d"', r'"i\u0064"', '"ID"']),
    st.sampled_from([":", ": ", " : "]),
    ids,
)
INPUTS = (
    '"inputs":[{"name":"x","id":"nested","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]'
)
members = st.one_of(
    id_members,
    st.builds('"parameters":{{"id":{}}}'.format, ids),
    st.sampled_from(['"outputs":[{"name":"y","id":"z"}]', r'"note":"\",\"id\":\"a\""', INPUTS]),
)


@st.composite
def headers(draw):
    """Draw a header's text: ids in front, behind, twice, escaped and nested."""
    front = [draw(id_members)] if draw(st.booleans()) else []
    listed = draw(st.permutations([*draw(st.lists(members, max_size=3)), INPUTS]))
    comma = draw(st.sampled_from([",", ", ", " ,"]))
    return "{" + comma.join([*front, *listed]) + draw(st.sampled_from(["}", " }", "} ", "}}", ""]))


@settings(max_examples=500, deadline=None)
@given(headers(), st.lists(ids, min_size=1, max_size=4), st.integers(-3, 3))
@example('{"id":"a",' + INPUTS + ',"id":"a"}', ['"b"'], 0)
@example('{"id":"a",' + INPUTS + ',"id":"b"}', ['"a"', '"b"'], 0)
@example('{"id":"a",' + INPUTS + r',"\u0069d":"b"}', ['"a"', '"b"'], 0)
@example('{"id":"a"' + INPUTS + "}", ['"b"'], 0)
@example('{"id":"a",' + INPUTS + "}", [r'"\x"', '"tab\t"', '"\\"'], 0)
@example('{"id":"a",,' + INPUTS + "}", ['"b"'], 0)
def test_the_short_cut_and_the_plain_way_understand_every_header_alike(text, other_ids, shift):
    # The first time teaches the short cut, the others are for it to get wrong.
    variants = [text, text, *[text.replace('"a"', other, n) for other in other_ids for n in (1, -1)]]
    for variant in variants:
        header = variant.encode()
        for json_bytes in {len(header), max(1, len(header) + shift)}:
            expected = outcome(codec_binary._decode, header + RAW, json_bytes, LIMITS)
            assert outcome(codec_binary.decode, header + RAW, json_bytes, LIMITS) == expected
            assert outcome(codec_binary.decode, memoryview(header + RAW), json_bytes, LIMITS) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4), st.integers(0, 140), st.integers(0, 4), st.integers(0, 160))
def test_any_bytes_are_a_request_or_a_clear_error(noise, place, dropped, json_bytes):
    body, right = request(id="abc")
    codec_binary.decode(body, right, LIMITS)
    body = body[:place] + noise + body[place + dropped :]
    for length in {right, right + len(noise) - dropped, json_bytes}:
        got = outcome(codec_binary.decode, body, length, LIMITS)
        assert got == outcome(codec_binary._decode, body, length, LIMITS)


def test_a_known_header_with_another_id_is_not_read_again(monkeypatch):
    for form in ('{"id":"%s",%s}', '{"id": "%s",%s}'):
        first = codec_binary.decode((form % ("a", INPUTS)).encode() + RAW, len(form % ("a", INPUTS)), LIMITS)
        with monkeypatch.context() as patched:
            patched.setattr(codec_binary, "_decode", None)
            header = (form % ("another one", INPUTS)).encode()
            assert codec_binary.decode(header + RAW[::-1], len(header), LIMITS) == (
                first[0],
                (RAW[::-1],),
                b"another one",
            )


def test_a_header_that_was_read_under_other_limits_is_read_again():
    body, json_bytes = request(id="limits")
    codec_binary.decode(body, json_bytes, LIMITS)
    with pytest.raises(TooLarge, match="the limit is 1"):
        codec_binary.decode(body, json_bytes, Limits(elements_max=1))


def array_of(name, shape, seed):
    """Return an array of the datatype whose elements are all alike likely, NaN included."""
    datatype = DATATYPES[name]
    count = int(np.prod(shape))
    rng = np.random.default_rng(seed)
    if name == "BYTES":
        return np.array([f"é{n}\0" * (n % 3) for n in range(count)], np.object_).reshape(shape)
    if name == "BOOL":
        return rng.integers(0, 2, shape).astype(np.bool_)
    return np.frombuffer(rng.bytes(count * datatype.itemsize), datatype.dtype).reshape(shape)


@pytest.mark.parametrize("name", sorted(DATATYPES))
@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**32), st.booleans())
def test_what_tritonclient_sends_in_binary_arrives(name, shape, seed, viewed):
    array = array_of(name, shape, seed)
    sent = InferInput("x", shape, name).set_data_from_numpy(array)
    more = InferInput("more", [1], "INT64").set_data_from_numpy(
        np.array([seed], np.int64), binary_data=bool(seed % 2)
    )
    for inputs in ([sent], [sent, more], [more, sent]):
        body, json_bytes = InferenceServerClient.generate_request_body(inputs, request_id=f"r{seed}")
        body = memoryview(body) if viewed else body
        for _ in range(2):
            call, payloads, id_ = codec_binary.decode(body, json_bytes, LIMITS)
            assert call.binary
            assert id_ == b"r%d" % seed
            named = dict(
                zip([each.name for each in call.inputs], zip(call.inputs, payloads, strict=True), strict=True)
            )
            declared, payload = named["x"]
            assert (declared.datatype.name, declared.shape) == (name, tuple(shape))
            assert payload.tolist() == array.tolist() if name == "BYTES" else payload == array.tobytes()
            if more in inputs:
                assert bytes(named["more"][1]) == struct.pack("<q", seed)


@pytest.mark.parametrize("name", sorted(DATATYPES))
@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=2), st.integers(0, 2**32))
def test_json_and_binary_say_the_same(name, shape, seed):
    array = array_of(name, shape, seed)
    if array.dtype.kind in "fV":
        array = np.where(np.isfinite(array), array, np.ones((), array.dtype))
    numbers = array.astype(np.float64) if name == "BF16" else array
    written = {"name": "x", "shape": shape, "datatype": name, "data": numbers.tolist()}
    from_json = codec_json.decode(json.dumps({"inputs": [written]}).encode(), LIMITS)
    exact = InferInput("x", shape, name).set_data_from_numpy(array)
    blob = exact._get_binary_data()
    body, json_bytes = request([{**exact._get_tensor()}], blob)
    from_binary = codec_binary.decode(body, json_bytes, LIMITS)
    assert from_json[0] is from_binary[0]
    assert plain(from_json[1]) == plain(from_binary[1])


def test_a_large_tensor_is_viewed_and_a_small_one_copied():
    large = {**TENSOR, "shape": [100_000], "parameters": {"binary_data_size": 400_000}}
    body, json_bytes = request([large], bytes(400_000))
    for given_body in (body, memoryview(body)):
        for _ in range(2):
            (payload,) = codec_binary.decode(given_body, json_bytes, LIMITS)[1]
            assert isinstance(payload, memoryview)
            assert payload.obj is body
    assert type(codec_binary.decode(*request(), LIMITS)[1][0]) is bytes


def sized(size_bytes, **fields: Any):
    return {**TENSOR, **fields, "parameters": {"binary_data_size": size_bytes}}


@pytest.mark.parametrize(
    ("tensors", "blob", "message"),
    [
        (
            [TENSOR],
            RAW[:-1],
            "the inputs declare 8 bytes of binary data (binary_data_size), but 7 bytes follow the JSON",
        ),
        ([TENSOR], RAW + b"\0", "but 9 bytes follow the JSON"),
        (
            [sized(7)],
            RAW[:-1],
            "FP32 of shape [2] takes 8 bytes, got 7 - at `$.inputs[0].parameters.binary_data_size`",
        ),
        ([sized(8.5)], RAW, "expected a whole number, 0 or more, got 8.5"),
        ([sized(2**63 - 1, datatype="BYTES")], RAW, "declare 9223372036854775807 bytes of binary data"),
        (
            [sized(8, data=[1, 2])],
            RAW,
            "expected no data beside parameters.binary_data_size - at `$.inputs[0].data`",
        ),
        (
            [{"name": "x", "shape": [2], "datatype": "FP32"}],
            RAW,
            "expected the elements, here or as binary data",
        ),
        (
            [sized(2, datatype="BOOL")],
            b"\x01\x02",
            "expected BOOL, a byte of 0 or 1, got 2 in element 1 - at `$.inputs[0]`",
        ),
        (
            [sized(8, datatype="BYTES", shape=[1])],
            b"\x09\0\0\0abcd",
            "element 0 says 9 bytes, of which 4 are there - at `$.inputs[0]`",
        ),
        ([sized(5, datatype="BYTES", shape=[1])], b"\x01\0\0\0\xff", "element 0 of BYTES is not UTF-8"),
    ],
)
def test_bytes_that_are_not_what_was_declared_are_refused(tensors, blob, message):
    body, json_bytes = request(tensors, blob)
    for _ in range(2):
        with pytest.raises(Invalid) as caught:
            codec_binary.decode(body, json_bytes, LIMITS)
        assert message in str(caught.value)


def test_a_header_longer_than_the_body_is_refused():
    body, json_bytes = request(id="abc")
    codec_binary.decode(body, json_bytes, LIMITS)
    for wrong in (len(body) + 1, 2**63, 0):
        with pytest.raises(
            Invalid, match=f"Inference-Header-Content-Length says {wrong} bytes of JSON; the body has"
        ):
            codec_binary.decode(body, wrong, LIMITS)


def spec(*tensors: tuple[str, tuple[int, ...]], rows_max: int = 0):
    inputs = tuple(TensorSpec(f"x{n}", DATATYPES[name], shape) for n, (name, shape) in enumerate(tensors))
    artifact = Artifact("m", 1, "0" * 64, Path("m"), 1)
    return ModelSpec(artifact, ModelConfig("m"), inputs, (), rows_max)


@pytest.mark.parametrize(
    ("model", "body", "shape"),
    [
        (spec(("FP32", (-1, 2)), rows_max=8), RAW, (1, 2)),
        (spec(("FP32", (-1, -1, 2)), rows_max=8), RAW * 3, (1, 3, 2)),
        (spec(("FP32", (-1, 2))), RAW * 3, (3, 2)),
        (spec(("FP32", (2,))), RAW, (2,)),
        (spec(("FP32", (-1, 2))), b"", (0, 2)),
        (spec(("INT64", ())), RAW, ()),
        (spec(("BF16", (2, 2))), RAW, (2, 2)),
    ],
)
def test_a_raw_body_is_the_only_input_of_the_shape_that_follows_from_its_size(model, body, shape):
    call, (payload,), id_ = codec_binary.decode_raw(body, model, LIMITS)
    assert (call.inputs[0].name, call.inputs[0].shape, call.outputs, call.binary) == ("x0", shape, None, True)
    assert (payload, id_) == (body, b"")
    assert codec_binary.decode_raw(memoryview(body), model, LIMITS)[0] is call


@pytest.mark.parametrize(
    ("shape", "rows_max", "full"), [((1,), 0, (1,)), ((-1,), 0, (1,)), ((-1, 1), 4, (1, 1)), ((), 0, ())]
)
def test_a_raw_body_is_one_string(shape, rows_max, full):
    call, (payload,), _ = codec_binary.decode_raw(
        "é\0".encode(), spec(("BYTES", shape), rows_max=rows_max), LIMITS
    )
    assert (call.inputs[0].shape, payload.shape, payload.ravel().tolist()) == (full, full, ["é\0"])


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (spec(), RAW, "needs a model with one input; m has 0"),
        (spec(("FP32", (2,)), ("FP32", (2,))), RAW, "needs a model with one input; m has 2"),
        (spec(("FP32", (-1, -1))), RAW, "more than one dimension is open"),
        (spec(("FP32", (-1, 0))), b"", "more than one dimension is open"),
        (spec(("FP32", (3,))), RAW, "takes 12 bytes, got 8"),
        (spec(("FP32", (-1, 3))), RAW, "takes a multiple of 12 bytes, got 8"),
        (spec(("BYTES", (2,))), RAW, "one string is all that a raw binary request can say"),
        (spec(("BYTES", (1,))), b"\xff", "the body is not UTF-8"),
        (spec(("BOOL", (1,))), b"\x07", "expected BOOL, a byte of 0 or 1, got 7"),
    ],
)
def test_a_raw_body_that_does_not_fit_the_model_is_refused(model, body, message):
    with pytest.raises(Invalid, match=message):
        codec_binary.decode_raw(body, model, LIMITS)


def test_bf16_arrives_as_its_own_two_bytes():
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    body, json_bytes = request([sized(4, datatype="BF16")], array.tobytes())
    assert list(codec_binary.decode(body, json_bytes, LIMITS)[1]) == [array.tobytes()]
