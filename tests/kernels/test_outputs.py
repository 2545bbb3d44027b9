"""Does what scores are said to say hold, and is it the same to the last bit however it is computed?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import outputs
from kernels.scoring import COLUMNS, LANES
from tests.kernels import naive_drift as naive

compiled = outputs.compiled()
awkward = st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-45, -1e-40, 3e38, -3e38, np.inf, -np.inf, np.nan])
rows = st.integers(0, 3) | st.sampled_from([LANES - 1, LANES, LANES + 1])
classes = st.integers(1, 11) | st.sampled_from([COLUMNS, COLUMNS + 1, 2 * COLUMNS + 3])


@st.composite
def scored(draw):
    """Return scores: logits of some scale or probabilities, of which some rows hold what is awkward."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(size=(draw(rows), draw(classes))) * draw(st.sampled_from([0, 0.1, 3, 100]))
    if draw(st.booleans()):
        x = np.exp(x - x.max(axis=1, keepdims=True))
        x /= x.sum(axis=1, keepdims=True)
    if draw(st.booleans()) and x.size:
        some = rng.random(x.shape) < 0.05
        x[some] = draw(arrays(float, int(some.sum()), elements=awkward))
    with np.errstate(over="ignore"):
        return x.astype(draw(st.sampled_from([np.float32, np.float64])))


def said(x, by=compiled):
    made = np.empty(len(x), np.int64), np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    by(np.ascontiguousarray(x), *made)
    return made


def same(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def doubtful(x):
    """Return the rows whose sum is so near the bound that rounding decides what they are."""
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(x.astype(np.float64).sum(axis=1) - 1)
    return np.abs(off - outputs.OFF_MAX) < 1e-9


@given(scored())
def test_both_forms_say_the_same_to_the_last_bit(x):
    assert same(said(x), said(x, outputs.scores))


@given(scored())
def test_scores_say_what_the_naive_reading_makes_of_them(x):
    assume(not doubtful(x).any())
    (classes, confidence, entropy), wanted = said(x), said(x, naive.scores)
    assert (classes == wanted[0]).all()
    assert confidence == pytest.approx(wanted[1], rel=3e-6, abs=1e-37, nan_ok=True)
    assert entropy == pytest.approx(wanted[2], rel=1e-5, abs=2e-6, nan_ok=True)


@given(scored(), st.lists(st.integers(0, 40), max_size=3))
def test_a_row_says_the_same_in_every_batch(x, cuts):
    parts = [said(part) for part in np.split(x, sorted(cuts))]
    assert same(said(x), [np.concatenate(each) for each in zip(*parts, strict=True)])


@given(scored())
def test_confidence_and_entropy_are_chances_or_no_numbers(x):
    classes, confidence, entropy = said(x)
    nan = np.isnan(x).any(axis=1)
    assert (classes[nan] == outputs.NO_CLASS).all()
    assert ((classes[~nan] >= 0) & (classes[~nan] < x.shape[1])).all()
    assert (np.isnan(confidence) == ~np.isfinite(x.max(axis=1))).all()
    known = confidence[~np.isnan(confidence)]
    assert ((known > 0) & (known <= 1 + outputs.OFF_MAX)).all()
    assert ((entropy >= 0) & (entropy <= 1) | np.isnan(confidence)).all()


def test_probabilities_are_taken_as_they_are_and_of_other_scores_the_softmax():
    chances = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]], np.float32)
    assert said(chances)[1].tolist() == [np.float32(0.7), 1.0]
    with np.errstate(divide="ignore"):
        logits = np.log(chances)  # The logarithm of 0 is a class that is left out, as masks do it.
    assert said(logits)[1] == pytest.approx([0.7, 1.0], rel=1e-6)
    assert said(logits)[2] == pytest.approx(said(chances)[2], rel=1e-5, abs=1e-6)


def test_equal_scores_are_quite_undecided_and_the_first_of_them_is_the_class():
    classes, confidence, entropy = said(np.full((2, 4), 0.25, np.float32))
    assert (classes.tolist(), confidence.tolist()) == ([0, 0], [0.25, 0.25])
    assert entropy == pytest.approx([1, 1])


def test_the_exponential_and_the_logarithm_are_good_to_a_few_units_of_the_last_place():
    x = np.linspace(-87, 0, 100_001, dtype=np.float32)
    assert outputs._exp(x) == pytest.approx(np.exp(x.astype(np.float64)), rel=3e-7)
    x = np.exp(np.linspace(-87, 88, 100_001)).astype(np.float32)
    assert outputs._log(x) == pytest.approx(np.log(x.astype(np.float64)), rel=2e-7, abs=2e-7)
