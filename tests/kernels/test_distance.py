"""Are distances those of their formulas, and those of SciPy where it means the same?"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial import distance as scipy_distance
from sklearn.datasets import load_breast_cancer

from kernels import distance
from tests.kernels import naive_distance as naive
from tests.slow import slow

SYMMETRIC = ["psi", "psi_excess", "js", "ks", "tv", "hellinger"]
UNSMOOTHED = ["js", "ks", "tv", "hellinger"]

count = st.integers(0, 1000) | st.just(0) | st.integers(0, 10**9)
sizes = st.tuples(st.integers(1, 4), st.integers(2, 9))


def occupied(counts):
    """Let no feature be without any count."""
    counts[:, 0] += counts.sum(axis=1) == 0
    return counts


@st.composite
def pairs(draw):
    shape = draw(sizes)
    one, other = (occupied(draw(arrays(np.int64, shape, elements=count))) for _ in range(2))
    return one, other


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SYMMETRIC)
@given(pair=pairs())
@slow
def test_a_distance_is_that_of_its_naive_twin_for_each_feature(name, pair):
    expected = [
        getattr(naive, name)(one, other) for one, other in zip(*map(np.ndarray.tolist, pair), strict=True)
    ]
    # Squares, because Hellinger's root makes 1e-8 of 1e-16.
    close(getattr(distance, name)(*pair) ** 2, np.square(expected))


@given(pair=pairs())
def test_chi_squared_is_that_of_the_contingency_table(pair):
    statistic, dof = distance.chi2(*pair)
    for f, (one, other) in enumerate(zip(*map(np.ndarray.tolist, pair), strict=True)):
        close((statistic[f], dof[f]), naive.chi2(one, other))


@pytest.mark.parametrize("name", SYMMETRIC)
@given(pair=pairs())
@slow
def test_a_distance_is_the_same_from_either_side_and_never_below_0(name, pair):
    there, back = getattr(distance, name)(*pair), getattr(distance, name)(*pair[::-1])
    close(there, back)
    assert (there >= 0).all()


@pytest.mark.parametrize("name", SYMMETRIC)
@given(pair=pairs())
@slow
def test_equal_counts_are_no_distance_apart(name, pair):
    close(getattr(distance, name)(pair[0], pair[0]) ** 2, 0)


@pytest.mark.parametrize("name", UNSMOOTHED)
@given(pair=pairs(), times=st.integers(2, 50))
@slow
def test_a_distance_of_shares_does_not_depend_on_how_many_were_counted(name, pair, times):
    np.testing.assert_allclose(
        getattr(distance, name)(pair[0], times * pair[1]), getattr(distance, name)(*pair), atol=1e-7
    )


@given(pair=pairs())
def test_bounded_distances_keep_their_bounds(pair):
    all_ = distance.between(*pair)
    assert (all_.js <= np.log(2) + 1e-12).all()
    assert (distance.ks(*pair) <= all_.tv + 1e-9).all()
    assert (all_.tv <= 1 + 1e-12).all()
    assert (all_.hellinger**2 <= all_.tv + 1e-9).all()


@given(pair=pairs(), data=st.data())
def test_merging_bins_brings_no_two_histograms_further_apart(pair, data):
    cut = data.draw(st.integers(1, pair[0].shape[1] - 1))
    coarse = [np.stack([c[:, :cut].sum(axis=1), c[:, cut:].sum(axis=1)], axis=1) for c in pair]
    for name in UNSMOOTHED:
        assert (getattr(distance, name)(*coarse) <= getattr(distance, name)(*pair) + 1e-9).all()


def test_what_was_not_counted_at_all_has_no_distance():
    nothing, something = np.zeros((1, 4), np.int64), np.array([[1, 2, 3, 4]])
    for pair in ((nothing, something), (something, nothing), (nothing, nothing)):
        for values in distance.between(*pair):
            assert np.isnan(values).all()


@given(
    values=st.lists(st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 0.5, 1.0, 3.0, np.inf, np.nan]), max_size=30),
    edges=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.inf]), min_size=1, max_size=6).map(sorted),
)
def test_every_value_is_in_one_bin_whatever_it_is(values, edges):
    counts = np.array([naive.cumulative(values, edges)]).T
    assert distance.bins(counts.astype(np.uint32), len(values)).tolist() == [naive.bins(values, edges)]


@given(pair=pairs())
def test_jensen_and_shannon_agree_with_scipy(pair):
    for got, one, other in zip(distance.js(*pair), *pair, strict=True):
        close(got, scipy_distance.jensenshannon(one, other) ** 2)


@given(pair=pairs())
def test_chi_squared_agrees_with_scipy_and_so_does_its_probability(pair):
    statistic, dof = distance.chi2(*pair)
    p = distance.chi2_p(statistic, dof)
    for f, table in enumerate(np.stack(pair, axis=1)):
        full = table[:, table.sum(axis=0) > 0]
        if full.shape[1] > 1:
            expected = stats.chi2_contingency(full, correction=False)
            close((statistic[f], dof[f]), (expected.statistic, expected.dof))
            np.testing.assert_allclose(p[f], expected.pvalue, rtol=1e-6, atol=1e-250)


@given(x=st.floats(0, 3000), dof=st.integers(1, 130))
def test_the_tail_of_chi_squared_agrees_with_scipy(x, dof):
    got = distance.chi2_p(np.array([x]), np.array([float(dof)]))
    np.testing.assert_allclose(got, stats.chi2.sf(x, dof), rtol=1e-9, atol=1e-290)


ladder = st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True).map(sorted)


@given(edges=ladder, data=st.data())
def test_wasserstein_is_the_area_between_the_two_lines(edges, data):
    one, other = (
        occupied(np.array([data.draw(st.lists(count, min_size=len(edges) + 1, max_size=len(edges) + 1))]))
        for _ in range(2)
    )
    low, high = edges[0] - 3.0, edges[-1] + 2.0
    padded = np.array([*edges, np.inf, np.inf])[:, None]
    got = distance.w1(
        *(np.pad(counts, ((0, 0), (0, 2))) for counts in (one, other)),
        padded, np.array([low]), np.array([high]),
    )  # fmt: skip
    np.testing.assert_allclose(
        got, naive.w1(one[0].tolist(), other[0].tolist(), edges, low, high), rtol=1e-3, atol=1e-4
    )


@given(moved=st.floats(0, 0.999), cells=st.integers(2, 8))
def test_wasserstein_of_even_bins_that_all_move_by_one_is_the_width_of_a_bin(moved, cells):
    edges = moved + np.arange(cells + 1.0)[:, None]
    one, other = np.zeros((1, cells + 2), np.int64), np.zeros((1, cells + 2), np.int64)
    one[0, 1:-2] = other[0, 2:-1] = 7
    close(distance.w1(one, other, edges, edges[0], edges[-1]), 1.0)


RADIUS = load_breast_cancer().data[:, 0]
HALVES = RADIUS[:300].astype(np.float32), RADIUS[300:].astype(np.float32)


class TestFixture:
    """Of 569 tumours' mean radius, the first 300 as the reference, in float32."""

    @pytest.fixture
    def edges(self):
        edges = np.quantile(RADIUS[:300], np.linspace(0, 1, 11)).astype(np.float32)
        edges[-1] = np.nextafter(edges[-1], np.float32(np.inf))
        return edges

    @pytest.fixture
    def counts(self, edges):
        return tuple(
            distance.bins(np.array([naive.cumulative(half, edges)]).T, len(half))[:, :-1] for half in HALVES
        )

    def test_the_bins_hold_what_they_held(self, counts):
        assert counts[0].tolist() == [[0, *[30] * 10, 0]]
        assert counts[1].tolist() == [[0, 35, 31, 39, 34, 22, 28, 22, 16, 12, 30, 0]]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("psi", 0.1028218328833217),
            ("js", 0.013241566309614768),
            ("ks", 0.11672862453531596),
            ("tv", 0.13234200743494423),
            ("hellinger", 0.1154882875450929),
        ],
    )
    def test_the_distance_is_what_it_was(self, counts, name, expected):
        assert getattr(distance, name)(*counts)[0] == pytest.approx(expected, rel=1e-12)

    def test_chi_squared_is_what_it_was(self, counts):
        statistic, dof = distance.chi2(*counts)
        assert (statistic[0], dof[0]) == (pytest.approx(14.685242493513076, rel=1e-12), 9)
        assert distance.chi2_p(statistic, dof)[0] == pytest.approx(0.0999526504057173, rel=1e-12)

    def test_wasserstein_is_what_it_was(self, counts, edges):
        low, high = np.array([RADIUS.min()]), np.array([RADIUS.max()])
        assert distance.w1(*counts, edges[:, None], low, high)[0] == pytest.approx(
            0.6881774803683277, rel=1e-12
        )

    def test_the_binned_statistics_are_near_those_of_the_values(self, counts, edges):
        exact = stats.ks_2samp(*HALVES).statistic
        assert exact - 0.1 <= distance.ks(*counts)[0] <= exact
        got = distance.w1(*counts, edges[:, None], np.array([RADIUS.min()]), np.array([RADIUS.max()]))[0]
        assert got == pytest.approx(stats.wasserstein_distance(*HALVES), rel=0.05)


@pytest.mark.parametrize("module", ["distance", "detect", "concept"])
def test_who_only_judges_needs_no_numba(module):
    code = f"import sys, kernels.{module}; sys.exit('numba' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_chance_alone_makes_the_index_as_large_as_what_is_taken_off_it():
    rng = np.random.default_rng(5)
    index = distance.psi(*(rng.multinomial(n, [1 / 15] * 15, size=4000) for n in (3000, 1000)))
    assert index.mean() == pytest.approx(14 * (1 / 3000 + 1 / 1000), rel=0.03)


def test_what_is_left_of_the_index_is_what_the_shares_themselves_differ_by():
    rng = np.random.default_rng(6)
    p, q = np.full(15, 1 / 15), np.linspace(0.6, 1.4, 15) / 15
    index = distance.psi_excess(rng.multinomial(3000, p, size=4000), rng.multinomial(1000, q, size=4000))
    assert index.mean() == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=0.05)
