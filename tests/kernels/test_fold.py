"""Does the fold count what its naive reading counts, whatever the numbers and however the stream is cut?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.fold import FEATURES, INFINITE, NAN, REACHED, ROWS, Z_MAX, fold
from tests.kernels import naive_drift as naive

FLOATS = (np.float32, np.float64)
AWKWARD = {
    np.float32: [0.0, -0.0, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 0.5],
    np.float64: [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        1e-310,
        1e39,
        -1e39,
        1e150,
        -9e149,
        1.7e308,
        -1.7e308,
        np.inf,
        -np.inf,
        np.nan,
    ],
}
# One row or none, a whole tile and around; one feature, a few, and around a tile's width.
rows = st.integers(0, 5) | st.sampled_from([ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 2])
features = st.integers(1, 9) | st.sampled_from([16, 33, FEATURES - 1, FEATURES, FEATURES + 1])


@st.composite
def streams(draw, rows=rows, features=features):
    """Return numbers, of which some are awkward, with edges that some of them lie on."""
    dtype = draw(st.sampled_from(FLOATS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(rows), draw(features)
    x = rng.normal(size=shape).astype(dtype)
    odd = rng.random(shape) < draw(st.sampled_from([0, 0.1, 0.5]))
    x[odd] = rng.choice(np.array(AWKWARD[dtype], dtype), int(odd.sum()))
    edges = rng.normal(size=(draw(st.integers(0, 5)), shape[1])).astype(dtype)
    for edge in edges[:-1]:
        if shape[0]:
            edge[:] = x[rng.integers(0, shape[0])]
    edges[-1:] = np.inf
    return x, np.sort(edges, axis=0)


class State:
    """What is folded into."""

    def __init__(self, edges) -> None:
        features = edges.shape[1]
        self.edges = edges
        self.shift = np.stack([np.linspace(-0.5, 0.5, features), np.linspace(0.5, 2, features)])
        self.sums = np.zeros((2, features))
        self.extremes = np.stack([np.full(features, np.inf), np.full(features, -np.inf)]).astype(edges.dtype)
        self.counts = np.zeros((REACHED + len(edges), features), np.uint32)
        self.size = np.zeros((2, features))

    def fold(self, x, by=fold):
        by(np.ascontiguousarray(x), self.edges, self.shift, self.sums, self.extremes, self.counts)
        with np.errstate(invalid="ignore", over="ignore"):
            z = np.clip((x.astype(np.float64) - self.shift[0]) * self.shift[1], -Z_MAX, Z_MAX)
        self.size += np.where(np.isfinite(x), [np.abs(z), z * z], 0).sum(axis=1)
        return self

    def __add__(self, other) -> State:
        total = State(self.edges)
        total.sums, total.size = self.sums + other.sums, self.size + other.size
        total.counts = self.counts + other.counts
        total.extremes[0] = np.minimum(self.extremes[0], other.extremes[0])
        total.extremes[1] = np.maximum(self.extremes[1], other.extremes[1])
        return total

    def __eq__(self, other) -> bool:
        """Say whether counts and extremes are the same, and sums but for rounding."""
        return bool(
            (self.counts == other.counts).all()
            and (self.extremes == other.extremes).all()
            and (np.abs(self.sums - other.sums) <= 1e-12 * self.size).all()
        )

    __hash__ = None

    def __repr__(self) -> str:
        return f"{self.counts}\n{self.extremes}\n{self.sums}"


@given(streams())
def test_numbers_are_counted_as_the_naive_reading_does(stream):
    x, edges = stream
    assert State(edges).fold(x) == State(edges).fold(x, naive.fold)


@given(streams(), st.lists(st.integers(0, 60), max_size=5))
def test_however_a_stream_is_cut_the_counts_are_the_same(stream, cuts):
    x, edges = stream
    state = State(edges)
    for part in np.split(x, sorted(cuts)):
        state.fold(part)
    assert state == State(edges).fold(x)


@given(streams(), st.randoms(use_true_random=False))
def test_in_whatever_order_rows_come_the_counts_are_the_same(stream, random):
    x, edges = stream
    order = random.sample(range(len(x)), len(x))
    assert State(edges).fold(x[order]) == State(edges).fold(x)


@given(streams(), st.integers(0, 60))
def test_folding_two_parts_and_adding_is_folding_all(stream, at):
    x, edges = stream
    assert State(edges).fold(x[:at]) + State(edges).fold(x[at:]) == State(edges).fold(x)


@given(streams(features=st.integers(2, 9)), st.integers(0, 8))
def test_a_feature_is_counted_the_same_whoever_is_beside_it(stream, at):
    x, edges = stream
    at %= x.shape[1]
    whole, alone = State(edges).fold(x), State(np.ascontiguousarray(edges[:, at : at + 1]))
    alone.shift = np.ascontiguousarray(whole.shift[:, at : at + 1])
    alone.fold(x[:, at : at + 1])
    assert (whole.counts[:, at] == alone.counts[:, 0]).all()
    assert (whole.sums[:, at] == alone.sums[:, 0]).all()
    assert (whole.extremes[:, at] == alone.extremes[:, 0]).all()


@given(streams())
def test_a_value_is_below_or_reaches_each_edge_or_is_no_number(stream):
    x, edges = stream
    counts = State(edges).fold(x).counts.astype(np.int64)
    assert (counts[NAN] == np.isnan(x).sum(axis=0)).all()
    assert (counts[INFINITE] == np.isinf(x).sum(axis=0)).all()
    reached = counts[REACHED:]
    assert (np.diff(reached, axis=0) <= 0).all()
    assert (reached <= len(x) - counts[NAN]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("far", [0, 1e6])
def test_moments_are_numpys_in_float64(dtype, far):
    rng = np.random.default_rng(7)
    x = (rng.normal(size=(5003, 131)) * 3 + far).astype(dtype)
    state = State(np.zeros((0, 131), dtype))
    state.shift = np.stack(
        [x[:500].mean(axis=0, dtype=np.float64), 1 / x[:500].std(axis=0, dtype=np.float64)]
    )
    for part in np.array_split(x, 91):
        state.fold(part)
    (mean, scale), (first, second) = state.shift, state.sums / len(x)
    exact = x.astype(np.float64)
    assert mean + first / scale == pytest.approx(exact.mean(axis=0), rel=1e-12)
    assert (second - first**2) / scale**2 == pytest.approx(exact.var(axis=0), rel=1e-12)
    assert (state.extremes == [x.min(axis=0), x.max(axis=0)]).all()


@pytest.mark.parametrize("far", [1e39, Z_MAX, 1e200, 1.7e308])
def test_a_number_far_beyond_float32_leaves_sums_that_are_numbers(far):
    x = np.array([[far], [-far], [far], [1.0]])
    state = State(np.array([[1e38], [np.inf]])).fold(x)
    assert np.isfinite(state.sums).all()
    assert state.counts[:, 0].tolist() == [0, 0, 2, 0]
    assert state.extremes[:, 0].tolist() == [-far, far]


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_as_small_as_there_are_lie_on_the_right_side_of_an_edge(dtype):
    least = np.nextafter(dtype(0), dtype(1))
    x = np.array([[-least], [-0.0], [0.0], [least]], dtype)
    edges = np.array([[-least], [0], [least]], dtype)
    assert State(edges).fold(x).counts[REACHED:, 0].tolist() == [4, 3, 1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_without_any_finite_number_nothing_is_summed_or_extreme(dtype):
    state = State(np.zeros((1, 3), dtype)).fold(np.array([[np.nan, np.inf, -np.inf]] * 20, dtype))
    assert (state.sums == 0).all()
    assert (state.extremes == [[np.inf] * 3, [-np.inf] * 3]).all()
    assert state.counts.tolist() == [[20, 0, 0], [0, 20, 20], [0, 20, 0]]


def test_another_type_of_numbers_is_refused_and_not_compiled_for():
    with pytest.raises(TypeError, match="No matching definition"):
        State(np.zeros((1, 3), np.float32)).fold(np.zeros((2, 3), np.float16))
