"""Counts of rows add up to the counts of all of them, in any order, and travel as they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.drift.tally import NO_CODE, Apart, Tally, realigned
from serving.drift.view import Kind

FEATURES, ROOM = 3, 4


@st.composite
def values(draw, kind=Kind.VALUES):
    rows = 7
    n = draw(st.integers(0, 50))
    numbers = st.lists(st.integers(0, 1 << 40), min_size=rows * FEATURES, max_size=rows * FEATURES)
    # Whole numbers, so that their sums do not depend on the order.
    sums = draw(st.lists(st.integers(-(1 << 30), 1 << 30), min_size=2 * FEATURES, max_size=2 * FEATURES))
    extremes = np.array([[np.inf], [-np.inf]]).repeat(FEATURES, axis=1)
    if n:
        low = draw(st.lists(st.floats(-1e9, 0), min_size=FEATURES, max_size=FEATURES))
        extremes = np.array([low, [each + 5 for each in low]])
    counts = np.array(draw(numbers), np.int64).reshape(rows, FEATURES)
    return Tally(kind, n, counts, np.array(sums, float).reshape(2, FEATURES), extremes)


@st.composite
def categories(draw, room=ROOM, codes_max=5):
    alphabet = np.full((room, FEATURES), NO_CODE)
    counts = np.zeros((room + 1, FEATURES), np.int64)
    sizes = np.zeros(FEATURES, np.int64)
    n = draw(st.integers(0, 100))
    for at in range(FEATURES):
        codes = sorted(draw(st.sets(st.integers(0, codes_max - 1), max_size=room)))
        left = n
        for place, code in enumerate(codes):
            alphabet[place, at] = code
            counts[place, at] = often = draw(st.integers(0, left))
            left -= often
        counts[-1, at], sizes[at] = left, len(codes)
    return Tally(Kind.CATEGORIES, n, counts, None, None, alphabet, sizes)


few_codes = categories(room=ROOM, codes_max=ROOM)
"""Such that all together there is room for."""


@pytest.mark.parametrize(
    "tallies", [values(), values(Kind.SPREAD), few_codes], ids=["values", "spread", "codes"]
)
def test_adding_is_commutative_associative_and_exact(tallies):
    @given(tallies, tallies, tallies)
    def law(one, other, third):
        assert one + other == other + one
        assert (one + other) + third == one + (other + third)
        assert (one + other).n == one.n + other.n

    law()


@given(values(), values())
def test_what_was_there_before_can_be_taken_away_again(before, since):
    after = before + since
    new = after.minus(before)
    assert (new.n, new.counts.tolist(), new.sums.tolist()) == (
        since.n, since.counts.tolist(), since.sums.tolist(),
    )  # fmt: skip
    assert np.array_equal(new.extremes, after.extremes)


def often(tally):
    """Return code to count of each feature, others under None."""
    return [
        {
            code: count
            for code, count in zip(tally.alphabet[:, at], tally.counts[:-1, at], strict=True)
            if count
        }
        | {None: tally.counts[-1, at]}
        for at in range(FEATURES)
    ]


@given(few_codes, few_codes)
def test_codes_are_taken_away_by_code_wherever_they_stood(before, since):
    after = before + since
    assert often(after.minus(before)) == often(since)


@given(categories(codes_max=12), categories(codes_max=12))
def test_whatever_there_is_no_room_for_is_counted_as_other(one, other):
    both = one + other
    assert (both.counts.sum(axis=0) == both.n).all()
    assert both == other + one
    for at in range(FEATURES):
        size = both.sizes[at]
        assert (np.diff(both.alphabet[:size, at]) > 0).all()
        assert (both.alphabet[size:, at] == NO_CODE).all()


@pytest.mark.parametrize("tallies", [values(), values(Kind.SPREAD), categories()])
def test_json_tells_all_of_it(tallies):
    @given(tallies)
    def law(tally):
        assert Tally.from_json(json.loads(json.dumps(tally.to_json()))) == tally

    law()


@pytest.mark.parametrize(
    "change",
    [
        {"counts": "AAAA"}, {"shape": [7, 1 << 20]}, {"shape": [0, 3]}, {"kind": "sketch"}, {"shape": [8, 3]},
        {"sums": 5}, {"n": "many"},
    ],
)  # fmt: skip
def test_what_is_no_tally_is_refused(change):
    tally = Tally(Kind.VALUES, 0, np.zeros((7, 3), np.int64), np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises((ValueError, TypeError)):
        Tally.from_json({**tally.to_json(), **change})


@given(values(), categories(), values(Kind.SPREAD))
def test_tallies_of_different_things_do_not_add_up(one, other, third):
    for a, b in ((one, other), (one, third), (other, third)):
        with pytest.raises(Apart):
            a + b
        with pytest.raises(Apart):
            a.minus(b)


def test_counts_follow_their_codes_into_a_larger_alphabet():
    before, after = np.array([[3], [9], [NO_CODE]]), np.array([[1], [3], [9]])
    counts = np.array([[5], [6], [0], [7]])
    assert realigned(counts, before, after).tolist() == [[0], [5], [6], [7]]
