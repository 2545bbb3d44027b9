"""What JSON requests are understood as, and that the short cut never understands another thing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from serving import codec_json
from serving.config import Limits
from serving.errors import TooLarge, TurnoutError
from serving.wire import DATATYPES, TensorOut

LIMITS = Limits()
TENSOR = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}


def outcome(decode, *arguments: Any):
    """Return what `decode` makes of its arguments, comparable, be it a request or an error."""
    try:
        call, payloads, id_ = decode(*arguments)
    except TurnoutError as error:
        return type(error), str(error)
    # Equal calls are one object.
    return (
        id(call),
        [each if isinstance(each, bytes) else each.tolist() for each in payloads],
        orjson.loads(b'"%b"' % id_),
    )


def request(**fields: Any):
    return json.dumps({"inputs": [TENSOR], **fields}).encode()


# Members of a document as text, so that keys can be twice, escaped, nested and spaced.
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
        '"data"',
        '"]["',
    ]
)
id_members = st.builds(
    lambda key, colon, value: key + colon + value,
    st.sampled_from(['"id"', r'"\u0069d"', '"ID"']),
    st.sampled_from([":", ": ", " : "]),
    ids,
)
numbers = st.sampled_from(
    [
        "[1,2]",
        "[1.5, 2]",
        "[[1,2]]",
        "[1]",
        "[]",
        "[true,2]",
        '["]",2]',
        "[1,2",
        "[NaN,1]",
        "[1e39,0]",
        "null",
        '"[1,2]"',
    ]
)
tensor_members = st.sampled_from(
    [
        '"name":"x"',
        '"shape":[2]',
        '"datatype":"FP32"',
        '"datatype":"INT8"',
        '"id":"inner"',
        '"extra":{"data":[1,2]}',
        r'"note":"\"data\":[1,2]"',
    ]
) | st.builds('"data":{}'.format, numbers)


def whole_tensor(extra, first):
    members = ['"name":"x"', '"shape":[2]', '"datatype":"FP32"', '"data":[1,2]']
    return "{" + ",".join(extra + members if first else members + extra) + "}"


some_tensors = st.builds(whole_tensor, st.lists(tensor_members, max_size=2), st.booleans())
members = st.one_of(
    id_members,
    st.builds('"inputs":[{}]'.format, some_tensors),
    st.builds('"parameters":{{"id":{}}}'.format, ids),
    st.sampled_from(['"outputs":[{"name":"y","id":"z"}]', '"data":[3,4]', '"note":{"id":"n","data":[5]}']),
)


@st.composite
def documents(draw):
    """Draw a request's text, mostly with an id in front and an input."""
    listed = draw(st.lists(members, max_size=3))
    inputs = draw(st.builds('"inputs":[{}]'.format, some_tensors))
    front = [draw(id_members)] if draw(st.booleans()) else []
    comma = draw(st.sampled_from([",", ", ", " ,"]))
    return "{" + comma.join([*front, *draw(st.permutations([*listed, inputs]))]) + "}"


@settings(max_examples=400, deadline=None)
@given(documents(), st.lists(ids, min_size=1, max_size=3), st.lists(numbers, min_size=1, max_size=3))
@example(
    '{"id":"a","inputs":[{"data":[1,2],"name":"x","shape":[2],"datatype":"FP32"}],"id":"b"}',
    ['"a"'],
    ["[1,2]"],
)
@example(
    r'{"id":"a","inputs":[{"name":"\"data\":[1,2]","shape":[2],"datatype":"FP32","data":[1,2]}]}',
    ['"b"'],
    ["[1,2]"],
)
@example(
    '{"id":"a","data":[1,2],"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}',
    ['"b"'],
    ["[1,2]"],
)
def test_the_short_cut_and_the_plain_way_understand_every_request_alike(text, other_ids, other_numbers):
    # The first time teaches the short cut, the others are for it to get wrong.
    variants = [text, text]
    variants += [text.replace('"a"', other, n) for other in other_ids for n in (1, -1)]
    variants += [text.replace("[1,2]", other) for other in other_numbers]
    for variant in variants:
        body = variant.encode()
        assert outcome(codec_json.decode, body, LIMITS) == outcome(codec_json._decode, body, LIMITS)


FAITHLESS = [
    # An id twice, of which the last counts.
    (
        '{"id":"a","inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"id":"a"}',
        '"a"',
        '"b"',
    ),
    # Numbers that are not the input's.
    ('{"data":[5],"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[0]}]}', "[5]", "[6]"),
    ('{"data":[0],"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[0]}]}', "[0]", "[6]"),
    ('{"inputs":[{"data":[5],"name":"x","shape":[1],"datatype":"FP32","data":[0]}]}', "[5]", "[6]"),
    # Brackets in a name.
    ('{"inputs":[{"x":"data","name":"[]","shape":[0],"datatype":"FP32","data":[]}]}', '"[]"', '"[ ]"'),
    # One parameter more, behind the numbers.
    (
        '{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[0]}]}',
        "]}]}",
        ']}],"parameters":{"priority":1}}',
    ),
]


@pytest.mark.parametrize(("text", "part", "other"), FAITHLESS)
def test_requests_that_only_look_alike_are_not_taken_for_one_another(text, part, other):
    bodies = [text.encode(), text.replace(part, other, 1).encode()]
    for body in [*bodies, *reversed(bodies), *bodies]:
        assert outcome(codec_json.decode, body, LIMITS) == outcome(codec_json._decode, body, LIMITS)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4), st.integers(0, 120), st.integers(0, 4))
def test_any_bytes_are_a_request_or_a_clear_error(noise, place, dropped):
    body = request(id="abc")
    codec_json.decode(body, LIMITS)
    body = body[:place] + noise + body[place + dropped :]
    got = outcome(codec_json.decode, body, LIMITS)
    assert got == outcome(codec_json._decode, body, LIMITS)
    assert got == outcome(codec_json.decode, memoryview(body), LIMITS)


def test_a_known_form_with_other_ids_and_numbers_is_not_read_again(monkeypatch):
    for spaced in ((",", ":"), (", ", ": ")):
        bodies = [
            json.dumps(
                {"id": f"r{n}", "inputs": [{**TENSOR, "data": [n, n / 2]}]}, separators=spaced
            ).encode()
            for n in range(3)
        ]
        first = codec_json.decode(bodies[0], LIMITS)
        with monkeypatch.context() as patched:
            patched.setattr(codec_json, "_decode", None)
            for n, body in enumerate(bodies):
                call, (payload,), id_ = codec_json.decode(body, LIMITS)
                assert (call, id_) == (first[0], b"r%d" % n)
                assert np.frombuffer(payload, np.float32).tolist() == [n, n / 2]


def test_a_form_that_was_read_under_other_limits_is_read_again():
    body = request(id="limits")
    codec_json.decode(body, LIMITS)
    with pytest.raises(TooLarge, match="the limit is 1 - at `\\$.inputs\\[0\\].shape`"):
        codec_json.decode(body, Limits(elements_max=1))


@pytest.mark.parametrize("name", sorted(set(DATATYPES) - {"BF16"}))
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_what_tritonclient_sends_in_json_arrives(name, data):
    shape = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=2))
    datatype = DATATYPES[name]
    raw = data.draw(st.lists(st.integers(0, 1), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    array = np.array([str(each) if name == "BYTES" else each for each in raw], datatype.dtype).reshape(shape)
    sent = InferInput("x", shape, name).set_data_from_numpy(array, binary_data=False)
    asked = [InferRequestedOutput("y", binary_data=False), InferRequestedOutput("z", binary_data=True)]
    body, json_bytes = InferenceServerClient.generate_request_body(
        [sent], outputs=asked, request_id="é", priority=2, timeout=500, parameters={"tenant": "a"}
    )
    assert json_bytes is None
    call, (payload,), id_ = codec_json.decode(body, LIMITS)
    assert (call.inputs[0].name, call.inputs[0].datatype, call.inputs[0].shape) == (
        "x",
        datatype,
        tuple(shape),
    )
    assert call.outputs == (TensorOut("y"), TensorOut("z", binary=True))
    assert (call.priority, call.timeout_us, call.parameters) == (2, 500, (("tenant", "a"),))
    assert id_.decode() == "é"
    assert payload.tolist() == array.tolist() if name == "BYTES" else payload == array.tobytes()
