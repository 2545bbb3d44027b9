"""What gRPC's messages are understood as, and that the short cut never understands another thing."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2 as v2

from serving import codec_json
from serving.config import Limits
from serving.errors import Invalid, TooLarge, TurnoutError, Unknown, Unsupported
from serving.rpc import typed
from serving.rpc.decode import decode
from serving.rpc.parse import parse
from serving.rpc.walk import FIELDS_MAX, walk
from serving.wire import DATATYPES, Window

LIMITS = Limits()
TYPED = sorted(typed.FIELDS)


def plain(payloads):
    return [each.tolist() if isinstance(each, np.ndarray) else bytes(each) for each in payloads]


def outcome(read, message: Any):
    """Return what `read` makes of a message, comparable, be it a request or an error."""
    try:
        model, version, call, payloads, id_ = read(message, LIMITS)
    except TurnoutError as error:
        return type(error), str(error)
    return model, version, id(call), plain(payloads), id_  # Equal calls are one object.


def in_full(message: Any, limits: Limits):
    """Decode without any memory of messages before."""
    walked = walk(memoryview(message), limits.tensors_max)
    return parse(walked.rest, walked.raws, limits)


def request(model: str = "m", shapes=((2,),), datatype: str = "FP32", **fields: Any):
    """Return a message with raw contents, all ones."""
    made = v2.ModelInferRequest(model_name=model, **fields)
    for index, shape in enumerate(shapes):
        made.inputs.add(name=f"x{index}", datatype=datatype, shape=shape)
        made.raw_input_contents.append(np.ones(shape, DATATYPES[datatype].dtype).tobytes())
    return made


# --- The short cut.


def piece(**fields: Any) -> bytes:
    return v2.ModelInferRequest(**fields).SerializeToString()


addresses = st.sampled_from([piece(model_name="m"), piece(model_name="m", model_version="7"), piece()])
id_pieces = st.sampled_from(["a", "b", "é", "\x00", '"', "x" * 127, "x" * 128]).map(
    lambda each: piece(id=each)
)
tensors = st.sampled_from(
    [
        piece(inputs=[{"name": "x", "datatype": "FP32", "shape": [2]}]),
        piece(inputs=[{"name": "x", "datatype": "BOOL", "shape": [8]}]),
        piece(inputs=[{"name": "x", "datatype": "FP32", "shape": [2], "contents": {}}]),
    ]
)
extras = st.sampled_from(
    [
        piece(outputs=[{"name": "y"}]),
        piece(parameters={"priority": {"int64_param": 1}}),
        piece(parameters={"priority": {"int64_param": 2}}),
        *[b"\x40\x05", b"\x4d1234", b"\x49" + b"\0" * 8, b"\x1a\x81\x00a", b"\xfa\x3f\x01a", b"\x1a\0", b""],
    ]
)
raws = st.sampled_from([b"\0" * 8, b"\1" * 8, b"\2" * 8, b"", b"\0" * 7]).map(
    lambda raw: piece(raw_input_contents=[raw])
)
usual = st.tuples(addresses, st.one_of(st.just(b""), id_pieces), extras, tensors, extras, raws)
"""Messages as clients write them."""


@st.composite
def twisted(draw):
    """Messages as nobody writes them: a piece more, or less, or in another place."""
    pieces = list(draw(usual))
    at = draw(st.integers(0, len(pieces) - 1))
    match draw(st.sampled_from(["more", "less", "moved", "cut"])):
        case "more":
            pieces.insert(at, draw(st.one_of(addresses, id_pieces, extras, tensors, raws)))
        case "less":
            del pieces[at]
        case "moved":
            pieces.append(pieces.pop(at))
        case "cut":
            pieces[at] = pieces[at][:-1]
    return pieces


messages = st.one_of(usual, usual, twisted()).map(b"".join)


@given(st.lists(messages, min_size=2, max_size=6), st.booleans())
@settings(max_examples=300)
def test_the_messages_before_never_change_what_a_message_says(several, as_views):
    for message in [*several, *several]:
        given_as = memoryview(message) if as_views else message
        assert outcome(decode, given_as) == outcome(in_full, message)


ids = st.one_of(st.sampled_from(["", "a", "request-17"]), st.text(max_size=140))


@given(st.lists(ids, min_size=1, max_size=5), st.integers(1, 3), st.sampled_from(["FP32", "BOOL"]))
def test_messages_that_differ_in_their_ids_alone_have_one_call_and_ids_of_their_own(names, inputs, datatype):
    calls = set()
    for name in [*names, *names]:
        made = request("ids", [(2, 2)] * inputs, datatype, id=name)
        _, _, call, payloads, id_ = decode(made.SerializeToString(), LIMITS)
        assert orjson.loads(b'"%b"' % id_) == name
        assert plain(payloads) == list(made.raw_input_contents)
        calls.add(id(call))
    assert len(calls) == 1


def test_an_id_after_the_id_is_the_one_that_counts():
    head, tail = b"\x0a\x01m", request("").SerializeToString()
    for _ in range(3):
        assert decode(head + b"\x1a\x01a" + tail, LIMITS)[4] == b"a"
        assert decode(head + b"\x1a\x01a\x1a\x01b" + tail, LIMITS)[4] == b"b"
        assert decode(head + b"\x1a\x01a\x1a\x00" + tail, LIMITS)[4] == b""


def test_raw_contents_of_one_length_divided_otherwise_are_not_confused():
    for _ in range(3):
        for shapes in ([(1,), (3,)], [(3,), (1,)], [(2,), (2,)]):
            made = request("divided", shapes, "UINT8")
            assert plain(decode(made.SerializeToString(), LIMITS)[3]) == list(made.raw_input_contents)
        made = request("divided", [(2,), (1,), (3,)], "UINT8")
        decode(made.SerializeToString(), LIMITS)
        made.raw_input_contents[:] = [b"12", b"345", b"6"]
        with pytest.raises(Invalid, match="takes 1 bytes, got 3"):
            decode(made.SerializeToString(), LIMITS)


def test_what_comes_after_the_raw_contents_counts_for_that_message_alone():
    made = request("after").SerializeToString()
    for _ in range(2):
        assert decode(made + piece(outputs=[{"name": "y"}]), LIMITS)[2].outputs is not None
        assert decode(made, LIMITS)[2].outputs is None


def test_every_byte_of_bool_is_looked_at_every_time():
    right = request("bools", [(3,)], "BOOL").SerializeToString()
    for _ in range(2):
        decode(right, LIMITS)
        with pytest.raises(Invalid, match="expected BOOL"):
            decode(right[:-1] + b"\2", LIMITS)


def test_large_contents_are_viewed_and_small_ones_are_not():
    for shape, viewed in (((4,), False), ((100_000,), True)):
        for message in [request("large", [shape]).SerializeToString()] * 2:
            for given_as in (message, memoryview(message)):
                (payload,) = decode(given_as, LIMITS)[3]
                assert isinstance(payload, memoryview) is viewed
                if isinstance(payload, memoryview):
                    assert payload.obj is message


@given(st.binary(max_size=60), st.binary(max_size=10), st.integers(0, 80))
def test_bytes_from_anywhere_are_a_request_or_an_error_of_the_client_s(noise, more, at):
    good = request("noise").SerializeToString()
    for message in (noise, good[:at] + more + good[at:], good[:at], good[:at] + more):
        try:
            decode(message, LIMITS)
        except TurnoutError as error:
            assert isinstance(error, Invalid | TooLarge | Unknown | Unsupported)


@given(messages)
def test_without_its_raw_contents_a_message_says_the_same(message):
    try:
        whole, walked = v2.ModelInferRequest.FromString(message), walk(memoryview(message), 100)
    except (DecodeError, Invalid):
        assume(False)
    rest = v2.ModelInferRequest.FromString(walked.rest)
    assert list(whole.raw_input_contents) == [bytes(each) for each in walked.raws]
    del whole.raw_input_contents[:]
    assert whole == rest


@given(st.binary(max_size=40))
def test_what_protobuf_does_not_read_is_not_read(message):
    try:
        decode(message, LIMITS)
        readable = True
    except Invalid as error:
        readable = "does not parse" not in str(error)
    except TurnoutError:
        readable = True
    if readable:
        v2.ModelInferRequest.FromString(message)
    else:
        # Groups, which protobuf reads and drops, are refused here.
        try:
            v2.ModelInferRequest.FromString(message)
        except DecodeError:
            return
        assert {each & 7 for each in message} & {3, 4}


# --- The same as over HTTP.


@given(
    st.lists(st.sampled_from(["FP32", "INT64"]), min_size=1, max_size=3),
    st.sampled_from([{}, {"priority": 1}, {"timeout": 5}, {"turnout_version": "7"}, {"a": 1.5, "b": True}]),
    st.sampled_from([(), ("y",), ("y", "z")]),
)
def test_a_call_is_the_same_object_as_that_of_a_request_over_http(datatypes, parameters, outputs):
    made = v2.ModelInferRequest(model_name="m", outputs=[{"name": name} for name in outputs])
    field = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters.items():
        setattr(made.parameters[name], field[type(value)], value)
    tensors = []
    for index, datatype in enumerate(datatypes):
        tensors.append({"name": f"x{index}", "datatype": datatype, "shape": [2], "data": [1, 2]})
        made.inputs.add(name=f"x{index}", datatype=datatype, shape=[2])
        made.raw_input_contents.append(np.array([1, 2], DATATYPES[datatype].dtype).tobytes())
    document = {"parameters": parameters, "inputs": tensors, "outputs": [{"name": name} for name in outputs]}
    call, payloads, _ = codec_json.decode(json.dumps(document).encode(), LIMITS)
    _, _, call_here, payloads_here, _ = decode(made.SerializeToString(), LIMITS)
    assert call_here is call
    assert plain(payloads_here) == plain(payloads)


# --- Typed contents.


def of_type(datatype: str, elements: Any, shape: Any = None) -> Any:
    made = v2.ModelInferRequest(model_name="m")
    tensor = made.inputs.add(name="x", datatype=datatype, shape=[len(elements)] if shape is None else shape)
    getattr(tensor.contents, typed.FIELDS[datatype]).extend(elements)
    return made


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_are_the_payload_that_raw_ones_are(datatype):
    form, text = DATATYPES[datatype].dtype, datatype == "BYTES"

    @settings(max_examples=20)
    @given(hnp.arrays(form, st.integers(0, 40), elements=st.text(max_size=5) if text else None))
    def alike(array):
        elements = [each.encode() for each in array] if text else array.tolist()
        made = of_type(datatype, elements)
        if text:
            want = [list(array)]
        else:
            want = [array.tobytes()]
            if form.kind == "f" and np.isnan(array).any():
                want = [np.array(elements, form).tobytes()]
        payloads = decode(made.SerializeToString(), LIMITS)[3]
        assert plain(payloads) == want

    alike()


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_are_sent_raw_and_only_so(datatype):
    made = request("halves", [(2,)], datatype)
    assert plain(decode(made.SerializeToString(), LIMITS)[3]) == [
        np.ones(2, {"FP16": np.float16, "BF16": ml_dtypes.bfloat16}[datatype]).tobytes()
    ]
    del made.raw_input_contents[:]
    with pytest.raises(Invalid, match=f"{datatype} has no typed contents; send raw_input_contents"):
        decode(made.SerializeToString(), LIMITS)


@pytest.mark.parametrize("datatype", [each for each in TYPED if DATATYPES[each].dtype.kind in "iu"])
def test_many_whole_numbers_are_read_as_few_are(datatype):
    form = DATATYPES[datatype].dtype

    @settings(max_examples=30)
    @given(hnp.arrays(form, st.integers(typed.FEW + 1, typed.FEW + 40)), st.booleans())
    def alike(array, small):
        array = array & form.type(0x7F) if small else array
        assert plain(decode(of_type(datatype, array.tolist()).SerializeToString(), LIMITS)[3]) == [
            array.tobytes()
        ]

    alike()


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT8", -129), ("INT16", 1 << 15), ("UINT16", 65536), ("UINT8", 256)]
)
@pytest.mark.parametrize("count", [9, 900])
def test_the_number_that_does_not_fit_is_named_with_its_place(datatype, value, count):
    numbers = [1] * count
    numbers[5] = value
    with pytest.raises(
        Invalid, match=rf"expected {datatype}, a whole number .*, got {value} - at .*_contents\[5\]`"
    ):
        decode(of_type(datatype, numbers).SerializeToString(), LIMITS)


def test_what_follows_known_contents_is_not_taken_for_elements():
    made = of_type("FP32", [1.0, 2.0])
    contents = made.inputs[0].contents.SerializeToString() + b"\xfa\x3f\x08\0\0\0\0\0\0\0\0"
    tensor = b"\x0a\x01x\x12\x04FP32\x1a\x01\x02\x2a%c%b" % (len(contents), contents)
    message = b"\x0a\x01m\x2a%c%b" % (len(tensor), tensor)
    assert plain(decode(message, LIMITS)[3]) == [np.array([1, 2], np.float32).tobytes()]


# --- What is wrong, and where.


def _with(change) -> v2.ModelInferRequest:
    made = request("m", [(2,), (2,)])
    change(made)
    return made


def _shm(made: Any, size_bytes: int = 8) -> None:
    made.inputs[0].parameters["shared_memory_region"].string_param = "r"
    made.inputs[0].parameters["shared_memory_byte_size"].int64_param = size_bytes
    del made.raw_input_contents[0]


def _shm_and_contents(made: Any) -> None:
    _shm(made)
    made.inputs[0].contents.fp32_contents.extend([1, 2])


def test_a_message_with_all_in_shared_memory_is_known_again_and_limits_still_hold():
    made = v2.ModelInferRequest(model_name="m", id="7")
    each = made.inputs.add(name="x", datatype="FP32", shape=[2])
    each.parameters["shared_memory_region"].string_param = "r"
    each.parameters["shared_memory_byte_size"].int64_param = 8
    message = made.SerializeToString()
    first, second = decode(message, LIMITS), decode(memoryview(message), LIMITS)
    assert first == second and first[0] == "m" and first[2].shared and first[4] == b"7"
    with pytest.raises(TooLarge):
        decode(message, Limits(elements_max=1))


def test_inputs_in_shared_memory_have_no_contents_and_the_others_keep_theirs():
    made = _with(_shm)
    for _ in range(2):  # Nothing is learned from the first.
        _, _, call, payloads, _ = decode(made.SerializeToString(), LIMITS)
        assert call.inputs[0].window == Window("r", 0, 8) and call.inputs[1].window is None
        assert list(payloads) == [b"", made.raw_input_contents[0]]


WRONG: dict[str, tuple[Any, type[TurnoutError], str]] = {
    "no model": (lambda m: m.ClearField("model_name"), Unknown, "no model ''"),
    "a path for a model": (lambda m: setattr(m, "model_name", "../x"), Unknown, "no model '../x'"),
    "a version that is none": (lambda m: setattr(m, "model_version", "latest"), Unknown, "positive integer"),
    "too few contents": (lambda m: m.raw_input_contents.pop(), Invalid, "2 inputs, but 1 raw_input_contents"),
    "too many": (lambda m: m.raw_input_contents.append(b""), Invalid, "2 inputs, but 3 raw_input_contents"),
    "both kinds": (
        lambda m: m.inputs[1].contents.fp32_contents.extend([1, 2]),
        Invalid,
        r"expected no contents beside raw_input_contents - at `\$.inputs\[1\].contents`",
    ),
    "too short": (
        lambda m: m.raw_input_contents.__setitem__(1, b"123"),
        Invalid,
        r"FP32 of shape \[2\] takes 8 bytes, got 3 - at `\$.raw_input_contents\[1\]`",
    ),
    "an unknown datatype": (lambda m: setattr(m.inputs[0], "datatype", "FP8"), Invalid, 'datatype "FP8"'),
    "a negative size": (
        lambda m: m.inputs[0].shape.append(-1),
        Invalid,
        r"got -1 - at `\$.inputs\[0\].shape",
    ),
    "too many dimensions": (lambda m: m.inputs[0].shape.extend([1] * 100_000), Invalid, "dimensions"),
    "too large": (lambda m: m.inputs[0].shape.append(1 << 40), TooLarge, "too many elements"),
    "a name twice": (lambda m: setattr(m.inputs[1], "name", "x0"), Invalid, "named twice"),
    "no name": (lambda m: m.inputs[1].ClearField("name"), Invalid, r"\$.inputs\[1\].name"),
    "another size of shared memory": (lambda m: _shm(m, 9), Invalid, "takes 8 bytes, got 9"),
    "a negative size of shared memory": (lambda m: _shm(m, -8), Invalid, "a whole number, 0 or more, got -8"),
    "contents beside shared memory": (_shm_and_contents, Invalid, "no contents beside shared memory"),
    "a sequence": (
        lambda m: setattr(m.parameters["sequence_id"], "int64_param", 3),
        Invalid,
        "sequences are not supported",
    ),
    "a reserved name": (
        lambda m: setattr(m.parameters["triton_x"], "bool_param", True),
        Invalid,
        "this name is reserved",
    ),
    "a bad timeout": (
        lambda m: setattr(m.parameters["timeout"], "int64_param", -1),
        Invalid,
        r"\$.parameters.timeout",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_with_its_place(what):
    change, error, says = WRONG[what]
    for _ in range(2):
        with pytest.raises(error, match=says):
            decode(_with(change).SerializeToString(), LIMITS)


def test_contents_in_another_type_s_field_are_refused():
    made = of_type("FP32", [1, 2])
    made.inputs[0].contents.int_contents.extend([1, 2])
    with pytest.raises(Invalid, match="expected fp32_contents for FP32, got int_contents"):
        decode(made.SerializeToString(), LIMITS)


def test_strings_that_are_no_text_are_refused_with_their_index():
    with pytest.raises(Invalid, match="element 1 of BYTES is not UTF-8"):
        decode(of_type("BYTES", [b"a", b"\xff"]).SerializeToString(), LIMITS)


def test_the_number_of_elements_is_that_of_the_shape():
    with pytest.raises(Invalid, match=r"shape \[3\] holds 3 elements, got 2"):
        decode(of_type("INT32", [1, 2], [3]).SerializeToString(), LIMITS)


def test_a_message_of_very_many_fields_is_refused_before_it_takes_memory():
    with pytest.raises(TooLarge, match=f"more than {FIELDS_MAX} fields"):
        decode(b"\x2a\x00" * (FIELDS_MAX + 1), LIMITS)
    with pytest.raises(TooLarge, match=r"limits\.tensors_max"):
        decode(b"\x3a\x00" * (LIMITS.tensors_max + 1), LIMITS)
    with pytest.raises(TooLarge, match="tensors"):
        decode(b"\x0a\x01m" + b"\x2a\x00" * (LIMITS.tensors_max + 1), LIMITS)


def test_parameters_that_mean_something_in_json_alone_do_no_harm():
    made = request("m")
    made.parameters["binary_data_output"].bool_param = True
    made.parameters["triton_enable_empty_final_response"].bool_param = True
    made.inputs[0].parameters["binary_data_size"].int64_param = 3
    assert decode(made.SerializeToString(), LIMITS)[2] is decode(request("m").SerializeToString(), LIMITS)[2]
