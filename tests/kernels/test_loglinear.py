"""Does each number fall in the cell whose edges are around it, and are quantiles as good as they say?"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import loglinear
from kernels.loglinear import CELLS, NAN, NEGATIVE_INFINITY, OCTAVE_MAX, OCTAVE_MIN, POSITIVE_INFINITY, TINY
from tests.kernels import naive_drift as naive

FORMS = (loglinear.count, loglinear.compiled(), loglinear._count_each)
near_edges = st.builds(
    lambda edge, towards: float(np.nextafter(edge, towards)) if towards else edge,
    st.sampled_from(loglinear.edges()[1:-1].tolist()),
    st.sampled_from([None, np.inf, -np.inf]),
)
awkward = st.sampled_from([0.0, -0.0, 5e-324, -1e-40, 3e38, -1e300, np.inf, -np.inf, np.nan])
numbers = near_edges | awkward | st.floats()
floats = st.sampled_from([np.float32, np.float64])
sensible = st.floats(2.0**OCTAVE_MIN, 2.0**OCTAVE_MAX, exclude_max=True)


@st.composite
def streams(draw, values=numbers):
    features = draw(st.integers(1, 4))
    listed = draw(st.lists(values, max_size=24))
    with np.errstate(over="ignore"):
        return (
            np.array(listed[: len(listed) // features * features]).reshape(-1, features).astype(draw(floats))
        )


def counted(x, by):
    counts = np.zeros((CELLS, x.shape[1]), np.uint32)
    by(np.ascontiguousarray(x), counts)
    return counts


@given(streams())
def test_each_form_counts_as_the_naive_reading_does(x):
    wanted = counted(x, naive.loglinear_count)
    assert all((counted(x, form) == wanted).all() for form in FORMS)


@given(streams(), st.lists(st.integers(0, 24), max_size=4), st.randoms(use_true_random=False))
def test_however_a_stream_is_cut_and_ordered_the_counts_are_the_same(x, cuts, random):
    order = random.sample(range(len(x)), len(x))
    parts = [counted(part, loglinear.compiled()) for part in np.split(x[order], sorted(cuts))]
    assert (sum(parts) == counted(x, loglinear.compiled())).all()


@given(numbers.filter(np.isfinite))
def test_a_number_is_between_the_edges_of_its_cell(value):
    (cell,) = loglinear.cells(np.array([value]))
    low, high = loglinear.edges()[cell - 2 : cell]
    assert low <= value <= high
    if cell != TINY:
        assert value != (high if value > 0 else low)


@given(streams(values=numbers.filter(lambda value: not np.isnan(value))))
def test_turning_the_signs_turns_the_cells(x):
    assert (loglinear.cells(-x) - TINY == TINY - loglinear.cells(x)).all()


def test_edges_ascend_and_no_cell_is_wider_than_a_sixteenth_of_its_magnitude():
    edges = loglinear.edges()
    assert len(edges) == CELLS - 2
    assert (np.diff(edges) > 0).all()
    low, high = edges[TINY - 1 : -2], edges[TINY:-1]
    assert (low[0], high[-1]) == (2.0**OCTAVE_MIN, 2.0**OCTAVE_MAX)
    assert ((high - low) / low <= 1 / 16).all()


def test_what_is_no_number_and_what_is_infinite_have_cells_of_their_own():
    x = np.array([np.nan, -np.inf, np.inf, -np.nan])
    assert loglinear.cells(x).tolist() == [NAN, NEGATIVE_INFINITY, POSITIVE_INFINITY, NAN]
    assert loglinear.cells(np.array([-1e300, 1e300])).tolist() == [
        NEGATIVE_INFINITY + 1,
        POSITIVE_INFINITY - 1,
    ]


@given(st.lists(sensible | sensible.map(lambda value: -value), min_size=1, max_size=40), st.floats(0, 1))
def test_a_quantile_is_within_a_32nd_of_the_number_of_that_rank(values, q):
    rank = max(1, int(np.ceil(q * len(values))))
    true = sorted(values)[rank - 1]
    (found,) = loglinear.quantile(counted(np.array(values)[:, None], loglinear.count), q)
    assert abs(found - true) <= abs(true) / 32 * (1 + 1e-12)


@given(streams(), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_quantile_is_never_less(x, p, q):
    counts = counted(x, loglinear.count)
    low, high = (loglinear.quantile(counts, each) for each in sorted((p, q)))
    assert ((low <= high) | (np.isnan(low) & np.isnan(high))).all()


def test_the_quantile_of_nothing_is_no_number_and_of_what_is_tiny_zero():
    counts = counted(np.array([[np.nan, 1e-9, np.inf, -1e300]]), loglinear.count)
    assert np.array_equal(
        loglinear.quantile(counts, 0.5), [np.nan, 0, np.inf, -(2.0**OCTAVE_MAX)], equal_nan=True
    )


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_that_is_none_is_refused(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        loglinear.quantile(np.ones((CELLS, 1), np.uint32), q)


def test_who_does_not_ask_for_what_is_compiled_needs_no_numba(root):
    code = "import sys, kernels.loglinear, kernels.outputs, kernels.projection; assert 'numba' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
