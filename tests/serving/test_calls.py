"""Which calls are one object."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serving import calls
from serving.wire import DATATYPES, TensorIn, TensorOut

inputs = st.lists(
    st.builds(
        TensorIn,
        st.sampled_from("ab"),
        st.sampled_from([DATATYPES["FP32"], DATATYPES["INT64"]]),
        st.lists(st.integers(0, 2), max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)
outputs = st.none() | st.lists(st.builds(TensorOut, st.sampled_from("yz"), st.booleans()), max_size=2).map(
    tuple
)
values = st.sampled_from([0, 1, True, False, 1.0, 0.0, -0.0, "1", "True", "1.0"])
parameters = st.lists(st.tuples(st.sampled_from("pq"), values), max_size=2).map(tuple)
parts = st.tuples(inputs, outputs, st.booleans(), st.integers(0, 1), st.integers(0, 1), parameters)


def interned(part):
    asked, wanted, binary, timeout_us, priority, others = part
    return calls.intern(
        asked, wanted, binary=binary, timeout_us=timeout_us, priority=priority, parameters=others
    )


@settings(max_examples=200, deadline=None)
@given(parts, parts)
def test_calls_are_one_object_exactly_if_they_are_written_alike(one, other):
    # repr tells 1 from 1.0, true and "1", which == does not.
    assert (interned(one) is interned(other)) == (repr(one) == repr(other))


@settings(max_examples=50, deadline=None)
@given(parts)
def test_a_call_is_what_it_was_made_of(part):
    call = interned(part)
    made = (call.inputs, call.outputs, call.binary, call.timeout_us, call.priority, call.parameters)
    assert repr(made) == repr(part)


def test_a_call_with_an_endless_parameter_is_not_kept():
    big = (("route", "x" * 100_000),)
    assert calls.intern((), parameters=big) is not calls.intern((), parameters=big)
