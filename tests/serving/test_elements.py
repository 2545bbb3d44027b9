"""How elements become bytes and JSON, against NumPy's slow and obvious way."""

from __future__ import annotations

import json
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import elements
from serving.errors import Failed, Invalid
from serving.wire import DATATYPES, TensorIn

WHERE = "$.inputs[0].data"
names = st.sampled_from(sorted(DATATYPES))
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def scalars(name):
    """Return the values of a datatype, as JSON would hold them."""
    kind = DATATYPES[name].dtype.kind
    match name:
        case "BOOL":
            return st.booleans()
        case "BYTES":
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
        case "BF16":
            return st.floats(width=16, allow_nan=False, allow_infinity=False).map(
                lambda value: float(ml_dtypes.bfloat16(value))
            )
    if kind in "iu":
        span = np.iinfo(DATATYPES[name].dtype)
        return st.integers(int(span.min), int(span.max))
    width = {"FP16": 16, "FP32": 32, "FP64": 64}[name]
    return st.floats(width=width, allow_nan=False, allow_infinity=False)


@st.composite
def tensors(draw):
    """Draw a tensor and its values in row-major order."""
    name, shape = draw(names), draw(shapes)
    count = math.prod(shape)
    values = draw(st.lists(scalars(name), min_size=count, max_size=count))
    return TensorIn("x", DATATYPES[name], shape), values


def nest(values, shape):
    """Nest `values` as `shape` says."""
    if not shape:
        return values[0]
    step = math.prod(shape[1:])
    return [nest(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def naive(values, tensor):
    """Return the payload as NumPy would make it."""
    array = np.array(values, tensor.datatype.dtype).reshape(tensor.shape)
    return array if tensor.datatype.name == "BYTES" else array.tobytes()


def same(payload, expected):
    if isinstance(expected, bytes):
        return payload == expected
    return payload.shape == expected.shape and payload.tolist() == expected.tolist()


@settings(max_examples=200, deadline=None)
@given(tensors())
def test_flat_and_nested_elements_are_what_numpy_makes_of_them(drawn):
    tensor, values = drawn
    expected = naive(values, tensor)
    assert same(elements.from_json(values, tensor, WHERE), expected)
    assert same(elements.from_json(nest(values, tensor.shape), tensor, WHERE), expected)


@settings(max_examples=200, deadline=None)
@given(tensors())
def test_what_is_written_as_json_reads_back_the_same(drawn):
    tensor, values = drawn
    array = np.array(values, tensor.datatype.dtype).reshape(tensor.shape)
    text = elements.to_json(array, tensor.datatype, "y")
    assert same(elements.from_json(json.loads(text), tensor, WHERE), naive(values, tensor))


@settings(max_examples=100, deadline=None)
@given(st.lists(scalars("BYTES"), max_size=6))
def test_strings_read_back_from_bytes_the_same(values):
    tensor = TensorIn("x", DATATYPES["BYTES"], (len(values),))
    blob = elements.strings_to_bytes(np.array(values, np.object_), "y")
    assert elements.strings_from_bytes(blob, tensor, WHERE).tolist() == values
    assert elements.strings_from_bytes(memoryview(blob), tensor, WHERE).tolist() == values


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9)), st.binary(max_size=30), st.integers(0, 4))
def test_any_bytes_are_strings_that_write_back_the_same_or_are_refused(lengths, noise, count):
    blob = b"".join(struct.pack("<I", length) + b"a" * length for length in lengths)[:60] + noise
    tensor = TensorIn("x", DATATYPES["BYTES"], (count,))
    try:
        array = elements.strings_from_bytes(blob, tensor, WHERE)
    except Invalid:
        return
    assert array.shape == (count,)
    assert elements.strings_to_bytes(array, "y") == blob


@settings(max_examples=300, deadline=None)
@given(
    names,
    shapes,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text(max_size=2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=1), inner, max_size=1),
        max_leaves=8,
    ),
)
def test_whatever_json_holds_is_a_payload_of_the_right_size_or_refused(name, shape, data):
    tensor = TensorIn("x", DATATYPES[name], shape)
    try:
        payload = elements.from_json(data, tensor, WHERE)
    except Invalid as error:
        assert WHERE in str(error)
        return
    if isinstance(payload, bytes):
        assert len(payload) == tensor.elements * tensor.datatype.itemsize
    else:
        assert payload.shape == shape


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([name for name in DATATYPES if "INT" in name]), st.integers(-(2**63), 2**64 - 1))
def test_a_whole_number_is_taken_exactly_if_it_fits(name, value):
    span = np.iinfo(DATATYPES[name].dtype)
    tensor = TensorIn("x", DATATYPES[name], (1,))
    if span.min <= value <= span.max:
        payload = elements.from_json([value], tensor, WHERE)
        assert np.frombuffer(payload, DATATYPES[name].dtype).tolist() == [value]
    else:
        with pytest.raises(Invalid, match=rf"expected {name}, a whole number from -?\d+ to \d+, got -?\d+"):
            elements.from_json([value], tensor, WHERE)


REFUSED = [
    ("INT32", (3,), [1, 2, 1.5], "expected INT32, a whole number .* got 1.5 - at `$.inputs[0].data[2]`"),
    ("INT64", (1,), [2.0**53 + 2], "expected INT64, .* got 9007199254740994.0"),
    ("INT64", (1,), [-(2.0**63)], "expected INT64"),
    (
        "INT8",
        (2, 1),
        [[1], [300]],
        "expected INT8, a whole number from -128 to 127, got 300 - at `$.inputs[0].data[1][0]`",
    ),
    ("UINT8", (1,), [-1], "expected UINT8, a whole number from 0 to 255, got -1"),
    ("INT8", (1,), [True], "expected INT8, a whole number from -128 to 127, got true"),
    ("FP32", (1,), [True], "expected FP32, a number of at most 3.40e38 either way, got true"),
    ("FP32", (1,), [1e39], "expected FP32, a number of at most 3.40e38 either way, got 1e\\+39"),
    ("FP16", (1,), [65520], "expected FP16, a number of at most 65504 either way, got 65520"),
    ("BF16", (2,), [0, 3.4e38], "expected BF16, .* got 3.4e\\+38 - at `$.inputs[0].data[1]`"),
    ("FP64", (1,), ["1"], 'expected FP64, .* got "1"'),
    ("FP64", (1,), [None], "expected FP64, .* got null"),
    ("BOOL", (2,), [0, 2], "expected BOOL, true or false, got 2 - at `$.inputs[0].data[1]`"),
    ("BOOL", (1,), ["true"], 'expected BOOL, true or false, got "true"'),
    ("BYTES", (1,), [1], "expected BYTES, a string, got 1"),
    ("FP32", (2, 2), [1, 2, 3], r"shape [2, 2] holds 4 elements, got 3 - at `$.inputs[0].data`"),
    (
        "FP32",
        (2, 2),
        [[1, 2], [3]],
        "expected an array of 2 for shape [2, 2], got an array of 1 - at `$.inputs[0].data[1]`",
    ),
    (
        "FP32",
        (2, 2),
        [[1, 2], 3],
        "expected an array of 2 for shape [2, 2], got 3 - at `$.inputs[0].data[1]`",
    ),
    (
        "FP32",
        (2, 2),
        [[1, 2, 3, 4]],
        "expected an array of 2 for shape [2, 2], got an array of 1 - at `$.inputs[0].data`",
    ),
    (
        "FP32",
        (4,),
        [[1, 2], [3, 4]],
        "expected an array of 4 for shape [4], got an array of 2 - at `$.inputs[0].data`",
    ),
    ("FP32", (2,), [1, [2]], "expected FP32, .* got an array of 1 - at `$.inputs[0].data[1]`"),
    ("FP32", (), [[1]], "got an array of 1"),
    ("FP32", (), {}, "expected an array, got an object"),
    ("FP32", (1,), "AAAA", 'expected an array, got "AAAA"'),
    ("FP32", (1,), 1, "expected an array, got 1"),
]


@pytest.mark.parametrize(("name", "shape", "data", "message"), REFUSED)
def test_what_is_not_of_the_datatype_or_shape_is_refused_with_its_place(name, shape, data, message):
    pattern = message.replace("[", r"\[").replace("]", r"\]").replace("$", r"\$")
    with pytest.raises(Invalid, match=pattern):
        elements.from_json(data, TensorIn("x", DATATYPES[name], shape), WHERE)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("INT64", [1.0, -2.0, 2.0**53], [1, -2, 2**53]),
        ("UINT64", [2**64 - 1, 0.0], [2**64 - 1, 0]),
        ("BOOL", [1.0, 0.0, 1, 0, True, False], [True, False, True, False, True, False]),
        ("FP32", [1, -0.0, 3.4e38], [1.0, -0.0, float(np.float32(3.4e38))]),
    ],
)
def test_numbers_written_another_way_are_taken_for_what_they_are(name, data, expected):
    payload = elements.from_json(data, TensorIn("x", DATATYPES[name], (len(data),)), WHERE)
    assert np.frombuffer(payload, DATATYPES[name].dtype).tolist() == expected


@pytest.mark.parametrize(
    ("blob", "count", "message"),
    [
        (b"\x01\x00\x00\x00\xff", 1, "element 0 of BYTES is not UTF-8"),
        (b"\xff\xff\xff\xffab", 1, "element 0 says 4294967295 bytes, of which 2 are there"),
        (b"\x00\x00\x00\x00\x05", 1, "1 bytes are left after the last of 1 elements"),
        (b"\x01\x00\x00\x00a\x00\x00\x00", 2, "element 1 has no length"),
        (b"\x00\x00\x00", 1, "1 elements of BYTES take 4 bytes or more, got 3"),
        (b"\x00", 0, "1 bytes are left"),
    ],
)
def test_strings_in_bytes_are_not_read_beyond_their_end(blob, count, message):
    with pytest.raises(Invalid, match=message):
        elements.strings_from_bytes(blob, TensorIn("x", DATATYPES["BYTES"], (count,)), WHERE)


@pytest.mark.parametrize("name", ["FP16", "FP32", "FP64", "BF16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_output_that_json_cannot_say_fails_with_the_way_out(name, value):
    array = np.array([1.0, value], DATATYPES[name].dtype)
    with pytest.raises(
        Failed, match="'y' holds NaN or infinity, which JSON cannot say; ask for it in binary"
    ):
        elements.to_json(array, DATATYPES[name], "y")


def test_strings_that_are_not_unicode_fail_in_both_forms():
    array = np.array(["\ud800"], np.object_)
    with pytest.raises(Failed, match="not Unicode"):
        elements.to_json(array, DATATYPES["BYTES"], "y")
    with pytest.raises(Failed, match="not Unicode"):
        elements.strings_to_bytes(array, "y")
