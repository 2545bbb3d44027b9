"""What a request's JSON must be, and what is said where it is not."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import codec_json
from serving.config import Limits
from serving.document import _depth, parse
from serving.errors import Invalid, TooLarge
from serving.wire import Window

LIMITS = Limits()
TENSOR = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}


def request(**fields: Any):
    return json.dumps({"inputs": [TENSOR], **fields}).encode()


def tensor(**fields: Any):
    return request(inputs=[{**TENSOR, **fields}])


REFUSED = [
    (b"", "does not parse"),
    (b"\xff", "does not parse"),
    (b'{"inputs":[NaN]}', "does not parse"),
    (b"[]", "expected an object, got an array of 0 - at `$`"),
    (b"{}", "expected an array, got nothing - at `$.inputs`"),
    (b'{"inputs":{}}', "expected an array, got an object - at `$.inputs`"),
    (b'{"inputs":[1]}', "expected an object, got 1 - at `$.inputs[0]`"),
    (request(id=5), "expected a string, got 5 - at `$.id`"),
    (request(inputs=[TENSOR, TENSOR]), '"x" is named twice - at `$.inputs[1].name`'),
    (tensor(name=""), 'expected a string of at least one character, got "" - at `$.inputs[0].name`'),
    (tensor(name=1), "expected a string of at least one character, got 1 - at `$.inputs[0].name`"),
    (tensor(datatype="FP31"), 'unknown datatype "FP31"; known: BOOL, UINT8,'),
    (
        tensor(datatype=None),
        "expected a string of at least one character, got null - at `$.inputs[0].datatype`",
    ),
    (tensor(shape=None), "expected an array, got null - at `$.inputs[0].shape`"),
    (tensor(shape=[-1]), "expected a whole number, 0 or more, got -1 - at `$.inputs[0].shape[0]`"),
    (tensor(shape=[2, True]), "expected a whole number, 0 or more, got true - at `$.inputs[0].shape[1]`"),
    (tensor(shape=[1.5]), "expected a whole number, 0 or more, got 1.5 - at `$.inputs[0].shape[0]`"),
    (tensor(shape=[2**64]), "expected a whole number, 0 or more, got 1.8446744073709552e+19"),
    (tensor(shape=[1] * 65), "65 dimensions; the limit is 64 - at `$.inputs[0].shape`"),
    (tensor(shape=[3]), "shape [3] holds 3 elements, got 2 - at `$.inputs[0].data`"),
    (tensor(data=None), "expected an array, got null - at `$.inputs[0].data`"),
    (
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}',
        "expected the elements, here or as binary data",
    ),
    (
        tensor(parameters={"binary_data_size": 8}),
        "expected no data beside parameters.binary_data_size - at `$.inputs[0].data`",
    ),
    (
        tensor(data=None, parameters={"binary_data_size": 8}),
        "needs the header Inference-Header-Content-Length",
    ),
    (tensor(parameters=[]), "expected an object, got an array of 0 - at `$.inputs[0].parameters`"),
    (
        tensor(parameters={"binary_data_size": -8}),
        "expected a whole number, 0 or more, got -8 - at `$.inputs[0].parameters.binary_data_size`",
    ),
    (request(outputs={}), "expected an array, got an object - at `$.outputs`"),
    (
        request(outputs=[{}]),
        "expected a string of at least one character, got nothing - at `$.outputs[0].name`",
    ),
    (request(outputs=[{"name": "y"}, {"name": "y"}]), '"y" is named twice - at `$.outputs[1].name`'),
    (
        request(outputs=[{"name": "y", "parameters": {"binary_data": 1}}]),
        "expected true or false, got 1 - at `$.outputs[0].parameters.binary_data`",
    ),
    (
        request(outputs=[{"name": "y", "parameters": {"classification": 0}}]),
        "expected 1 class or more, got 0",
    ),
    (request(parameters=[]), "expected an object, got an array of 0 - at `$.parameters`"),
    (
        request(parameters={"a": {}}),
        "expected a string, a number or a boolean, got an object - at `$.parameters.a`",
    ),
    (
        request(parameters={"timeout": -1}),
        "expected a whole number, 0 or more, got -1 - at `$.parameters.timeout`",
    ),
    (
        request(parameters={"timeout": "1"}),
        'expected a whole number, 0 or more, got "1" - at `$.parameters.timeout`',
    ),
    (
        request(parameters={"priority": 1.5}),
        "expected a whole number, 0 or more, got 1.5 - at `$.parameters.priority`",
    ),
    (request(parameters={"binary_data_output": "yes"}), 'expected true or false, got "yes"'),
    (
        request(parameters={"sequence_id": 3}),
        "sequences are not supported; send requests without them - at `$.parameters.sequence_id`",
    ),
    (
        request(parameters={"triton_x": 3}),
        "this name is reserved; choose another - at `$.parameters.triton_x`",
    ),
    (request(parameters={"headers": "x"}), "this name is reserved"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_contradicts_the_protocol_is_refused_with_its_place(body, message):
    for _ in range(2):
        with pytest.raises(Invalid) as caught:
            codec_json.decode(body, LIMITS)
        assert message in str(caught.value)


WINDOW = {"shared_memory_region": "r", "shared_memory_offset": 3, "shared_memory_byte_size": 8}


def in_memory(shape: tuple[int, ...] = (2,), **changed: Any) -> bytes:
    """Return a request whose input, of 8 bytes, is in shared memory, as is its output."""
    given = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {**WINDOW, **changed}}
    return orjson.dumps({"inputs": [given], "outputs": [{"name": "y", "parameters": {**WINDOW, **changed}}]})


def test_shared_memory_is_part_of_what_is_asked_for():
    call, payloads, _ = codec_json.decode(in_memory(), LIMITS)
    assert call.shared and list(payloads) == [b""]
    assert call.inputs[0].window == call.window("y") == Window("r", 3, 8)
    assert codec_json.decode(in_memory(), LIMITS)[0] is call
    assert codec_json.decode(in_memory(shared_memory_offset=4), LIMITS)[0] is not call


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "\u00e9"]), st.booleans(), st.booleans()), max_size=8)
)
def test_a_request_in_shared_memory_means_the_same_whatever_was_before(steps):
    for id_, first, stricter in steps:
        document = json.loads(in_memory())
        said = {"id": id_, **document} if first else {**document, "id": id_}
        text = orjson.dumps(said)
        if stricter:
            with pytest.raises(TooLarge):
                codec_json.decode(text, Limits(elements_max=1))
        call, payloads, got = codec_json.decode(text, LIMITS)
        assert json.loads(b'"%b"' % got) == id_ and list(payloads) == [b""]
        assert call is codec_json.decode(in_memory(), LIMITS)[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (in_memory(shared_memory_region=""), "a string of at least one character"),
        (in_memory(shared_memory_offset=-1), "a whole number"),
        (in_memory(shared_memory_offset=1 << 63), "a whole number"),
        (in_memory(shared_memory_byte_size=None), "expected a size in bytes, got nothing"),
        (in_memory(shared_memory_handle=7), "unknown; known: shared_memory_byte_size"),
        (in_memory((3,)), "FP32 of shape [3] takes 12 bytes, got 8"),
        (in_memory(binary_data_size=8), "no binary data beside shared memory"),
        (in_memory(classification=2), "no classes in shared memory"),
        (tensor(parameters={**WINDOW, "shared_memory_byte_size": 8}), "no data beside shared memory"),
    ],
)
def test_shared_memory_is_refused_where_it_is_not_clear_which(body, message):
    with pytest.raises(Invalid) as caught:
        codec_json.decode(body, LIMITS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "limits", "message"),
    [
        ({"shape": [0, 2**40], "data": []}, {}, "too many elements; the limit is 268435456"),
        ({"shape": [2**32, 2**32]}, {}, "too many elements"),
    ],
)
def test_a_shape_that_no_array_can_have_is_too_large(fields, limits, message):
    with pytest.raises(TooLarge, match=message):
        codec_json.decode(tensor(**fields), Limits(**limits))


def test_more_tensors_than_allowed_are_too_large():
    many = [{**TENSOR, "name": f"x{n}"} for n in range(3)]
    with pytest.raises(TooLarge, match="3 tensors; the limit is 2 - at `\\$.inputs`"):
        codec_json.decode(request(inputs=many), Limits(tensors_max=2))
    with pytest.raises(TooLarge, match="3 tensors; the limit is 2 - at `\\$.outputs`"):
        codec_json.decode(request(outputs=[{"name": each["name"]} for each in many]), Limits(tensors_max=2))


def test_what_is_unknown_but_not_reserved_is_left_alone():
    body = request(
        id=None,
        outputs=[],
        extension={"deep": [1]},
        parameters={"sequence_id": 0, "sequence_start": False, "turnout_route_key": "u1", "nothing": None},
        inputs=[{**TENSOR, "shape": [2.0], "parameters": {"content_type": "np"}, "extension": 1}],
    )
    call, _, id_ = codec_json.decode(body, LIMITS)
    assert (call.outputs, call.parameters, call.inputs[0].shape, id_) == (
        None,
        (("turnout_route_key", "u1"),),
        (2,),
        b"",
    )
    assert all(type(size) is int for size in call.inputs[0].shape)


def deep(depth):
    """Return a request whose JSON nests `depth` deep, with brackets in strings that do not count."""
    inner = depth - 2
    return request(id='[[{\\"' * 50, note=[0]).replace(
        b'"note": [0]', b'"note": [%b%b]' % (b"[" * inner, b"]" * inner)
    )


@pytest.mark.parametrize("depth_max", [4, 100, 1000])
def test_json_nests_as_deep_as_allowed_and_no_deeper(depth_max):
    limits = Limits(json_depth_max=depth_max)
    assert codec_json.decode(deep(depth_max), limits)[0].inputs[0].name == "x"
    with pytest.raises(Invalid, match=f"nests {depth_max + 1} deep; the limit is {depth_max}"):
        codec_json.decode(deep(depth_max + 1), limits)


def test_many_shallow_arrays_are_not_deep():
    rows = [[1.0]] * 5000
    body = tensor(shape=[5000, 1], data=rows)
    assert np.frombuffer(codec_json.decode(body, LIMITS)[1][0], np.float32).tolist() == [1.0] * 5000


@pytest.mark.parametrize(
    "text", [b"[" * 1_000_000, b'{"a":' * 500_000, b'"' * 1_000_001, b'{"a":"' + b"\\" * 1_000_001]
)
def test_a_megabyte_of_nesting_or_quotes_is_refused_at_once(text):
    start_s = time.monotonic()
    with pytest.raises(Invalid):
        parse(text, LIMITS)
    assert time.monotonic() - start_s < 20  # What is quadratic takes an hour.


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.integers(0, 1) | st.text('[]{}"\\', max_size=4),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=2), x, max_size=2),
        max_leaves=12,
    )
)
def test_depth_is_counted_as_a_walk_counts_it(document):
    def walk(value):
        if isinstance(value, dict):
            value = list(value.values())
        return 1 + max(map(walk, value), default=0) if isinstance(value, list) else 0

    assert _depth(orjson.dumps(document)) == walk(document)
