"""Is the evidence of drift what its bets say, and are alarms as rare as they promise?"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from kernels import detect, distance
from kernels.detect import Detector
from tests.kernels import naive_detect as naive
from tests.slow import slow

count = st.integers(0, 60) | st.just(0)
one_to_three, three_to_seven = st.integers(1, 3), st.integers(3, 7)


@st.composite
def references(draw, features=one_to_three, bins=three_to_seven):
    """References of at least `REFERENCE_MIN` rows, some bins of which are empty."""
    shape = draw(features), draw(bins)
    counts = draw(arrays(np.int64, shape, elements=st.integers(0, 3000) | st.just(0)))
    counts[:, 0] += 1000
    return counts


@st.composite
def streams(draw):
    """Return a reference, and blocks of rows that need not look like it."""
    reference = draw(references())
    return reference, draw(arrays(np.int64, (draw(st.integers(1, 8)), *reference.shape), elements=count))


def fed(reference, blocks, *, ordered=True, possible=None, together=None):
    detector = Detector(reference, ordered=ordered, possible=possible, together=together)
    for block in blocks:
        detector.update(block)
    return detector


@pytest.mark.parametrize("ordered", [True, False])
@given(stream=streams(), data=st.data())
def test_the_evidence_is_that_of_the_naive_twin(ordered, stream, data):
    reference, blocks = stream
    possible = data.draw(arrays(np.bool_, reference.shape, elements=st.booleans()))
    possible |= reference > 0
    possible[:, :2] = True
    detector = fed(reference, blocks, ordered=ordered, possible=possible)
    for f, row in enumerate(reference.tolist()):
        twin = naive.Detector(row, ordered=ordered, possible=possible[f].tolist(), together=len(reference))
        for block in blocks[:, f].tolist():
            twin.update(block)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(detector.log_e[f], np.log(twin.e), rtol=1e-9, atol=1e-9)
        assert detector.since_rows[f] == twin.since_rows
        assert detector.changed[f].tolist() == twin.changed


@given(stream=streams())
def test_features_are_judged_as_if_each_were_alone(stream):
    reference, blocks = stream
    together = fed(reference, blocks)
    for f in range(len(reference)):
        alone = fed(reference[f : f + 1], blocks[:, f : f + 1], together=len(reference))
        np.testing.assert_allclose(alone.log_e[0], together.log_e[f], rtol=1e-12, atol=1e-12)
        assert alone.since_rows[0] == together.since_rows[f]


@given(stream=streams(), at=st.integers(0, 8))
def test_a_detector_that_is_put_away_goes_on_bitwise(stream, at):
    reference, blocks = stream
    whole, resumed = fed(reference, blocks), Detector(reference)
    resumed.restore(fed(reference, blocks[:at]).arrays())
    assert (resumed.log_e == fed(reference, blocks[:at]).log_e).all()
    for block in blocks[at:]:
        resumed.update(block)
    for name, values in whole.arrays().items():
        assert values.tobytes() == resumed.arrays()[name].tobytes(), name
    assert whole.log_e.tobytes() == resumed.log_e.tobytes()


@given(stream=streams())
def test_what_is_put_away_changes_no_more(stream):
    reference, blocks = stream
    detector = Detector(reference)
    kept = detector.arrays()
    before = json.dumps({name: values.tolist() for name, values in kept.items()})
    for block in blocks:
        detector.update(block)
    assert json.dumps({name: values.tolist() for name, values in kept.items()}) == before


def test_a_detector_of_another_reference_is_refused():
    kept = Detector(np.full((2, 5), 1000)).arrays()
    with pytest.raises(ValueError, match=r"expected recent of shape \(3, 3, 5\), got \(3, 2, 5\)"):
        Detector(np.full((3, 5), 1000)).restore(kept)
    with pytest.raises(ValueError, match="got none"):
        Detector(np.full((2, 5), 1000)).restore({})


@given(stream=streams())
def test_a_feature_that_begins_anew_has_no_evidence_and_the_others_keep_theirs(stream):
    reference, blocks = stream
    which = np.arange(len(reference)) == 0
    detector, as_it_was = fed(reference, blocks), fed(reference, blocks)
    detector.reset(which)
    assert (detector.log_e[0], detector.since_rows[0], detector.changed[0].sum()) == (-np.inf, 0, 0)
    assert (detector.log_e[1:] == as_it_was.log_e[1:]).all()
    for each in (detector, as_it_was):
        each.update(blocks[0])
    assert detector.changed[0].sum() in {0, blocks[0, 0].sum()}
    assert (detector.log_e[1:] == as_it_was.log_e[1:]).all()


@given(reference=references())
def test_a_block_without_rows_changes_nothing(reference):
    detector = Detector(reference)
    detector.update(reference // 50)
    before = {name: values.tobytes() for name, values in detector.arrays().items()}
    detector.update(np.zeros_like(reference))
    assert {name: values.tobytes() for name, values in detector.arrays().items()} == before


class TestValidity:
    """A bet may not grow on average while rows follow the reference."""

    @given(stream=streams(), ordered=st.booleans())
    def test_no_bet_on_one_row_expects_a_gain_whatever_came_before(self, stream, ordered):
        reference, blocks = stream
        pi = (reference + 0.5) / (reference + 0.5).sum(axis=1, keepdims=True)
        expected = 0.0
        for j in range(reference.shape[1]):
            detector = fed(reference, blocks, ordered=ordered)
            row = np.zeros_like(reference)
            row[:, j] = 1
            expected = expected + pi[:, j] * np.exp(detector._gains(row, row.sum(axis=1)))
        assert (expected <= 1 + 1e-12).all()

    @given(stream=streams())
    def test_without_its_fee_and_whole_a_bet_is_fair_to_the_last_digit(self, stream):
        reference, blocks = stream
        pi = (reference + 0.5) / (reference + 0.5).sum(axis=1, keepdims=True)
        detector, expected = fed(reference, blocks), 0.0
        for j in range(reference.shape[1]):
            row = np.zeros_like(reference)
            row[:, j] = 1
            gains = detector._gains(row, row.sum(axis=1)) + detector._fees
            expected = expected + pi[:, j] * np.exp(gains * detector._rows_per_row())
        np.testing.assert_allclose(expected, 1, rtol=1e-12)

    @pytest.mark.parametrize("rows_per_block", [1, 3])
    @given(reference=references(features=st.just(1), bins=st.just(3)))
    @slow
    def test_the_mean_over_all_streams_there_are_is_at_most_the_number_of_blocks(
        self, reference, rows_per_block
    ):
        """Every stream of six rows over three bins is a feature; its probability is a product."""
        rows = np.array(list(itertools.product(range(3), repeat=6)))
        pi = ((reference + 0.5) / (reference + 0.5).sum())[0]
        chance = pi[rows].prod(axis=1)
        one_hot = np.eye(3, dtype=np.int64)[rows]
        detector = Detector(np.repeat(reference, len(rows), axis=0), together=1)
        for t, at in enumerate(range(0, 6, rows_per_block), start=1):
            detector.update(one_hot[:, at : at + rows_per_block].sum(axis=1))
            assert (chance * np.exp(detector.log_e)).sum() <= t * (1 + 1e-9)

    def test_the_fee_of_bets_that_learn_is_the_high_quantile_of_chi_squared(self):
        for bins in (3, 5, 18, 65):
            fee = np.expm1(Detector(np.full((1, bins), 4000))._fees[0, 0]) * 4000 * bins
            assert fee == pytest.approx(stats.chi2.isf(stats.norm.sf(3), bins - 1), rel=0.02)

    def test_a_thousand_features_need_more_room_than_one(self):
        one, many = Detector(np.full((1, 18), 500)), Detector(np.full((1000, 18), 500))
        assert (many._fees > 1.3 * one._fees).all()
        assert (Detector(np.full((1000, 18), 500), together=1)._fees == one._fees).all()

    def test_nearly_every_reference_is_what_bets_that_learn_allow_for(self):
        """Of 5,000 detectors of 16 features each, drawn from a truth that the bets know."""
        rng = np.random.default_rng(4)
        truth = rng.dirichlet(np.full(18, 3.0))
        detector = Detector(rng.multinomial(2000, truth, size=80_000), together=16)
        growth = np.log((truth**2 * detector._per_pi).sum(axis=1)) - detector._fees[0]
        assert (growth.reshape(-1, 16) > 0).any(axis=1).mean() < 0.01

    def test_fixed_bets_are_fair_to_most_of_what_references_are_drawn_from(self):
        rng = np.random.default_rng(4)
        truth = rng.dirichlet(np.full(18, 3.0))
        detector = Detector(rng.multinomial(2000, truth, size=4000), together=1)
        factors = np.exp(detector._tilts - detector._fees[3:, :, None])
        assert ((factors * truth).sum(axis=2) <= 1).mean() == pytest.approx(0.84, abs=0.03)


def test_a_reference_of_too_few_rows_never_alarms():
    detector = Detector(np.array([[333, 333, 333, 0], [334, 333, 333, 0]]))
    for _ in range(50):
        detector.update(np.array([[0, 0, 100, 0]] * 2))
    assert detector.log_e[0] == -np.inf
    assert detector.log_e[1] > 50


def test_where_only_one_bin_can_be_there_is_nothing_to_find():
    detector = fed(np.array([[5000, 0]]), [np.array([[9, 0]])] * 9, possible=np.array([[True, False]]))
    assert detector.log_e[0] == -np.inf


def test_a_bin_that_cannot_be_is_no_evidence():
    padded = np.array([[600, 500, 0, 0, 0, 0, 0, 0, 0, 0]])
    possible = padded > 0
    detector = fed(padded, [padded // 10] * 50, ordered=False, possible=possible)
    exact = fed(padded[:, :2], [padded[:, :2] // 10] * 50, ordered=False)
    np.testing.assert_allclose(detector.log_e, exact.log_e, rtol=1e-12)


def test_only_ordered_bins_can_shift():
    reference = np.full((1, 6), 1000)
    assert len(Detector(reference, ordered=False)._stakes) == len(detect.HALF_LIVES_ROWS)


def test_missing_values_alone_are_evidence():
    reference = np.array([[1000] * 10 + [0]])
    calm, missing = np.array([[10] * 10 + [0]]), np.array([[9] * 10 + [10]])
    detector = fed(reference, [calm] * 20)
    assert detector.log_e[0] < 5
    for _ in range(3):
        detector.update(missing)
    assert detector.log_e[0] > 20
    assert detector.changed[0, -1] >= 20  # What is new has to be seen once before it can be bet on.


def test_the_age_of_a_change_is_counted_from_where_it_began():
    rng = np.random.default_rng(2)
    reference = np.full((200, 16), 1000)
    detector = Detector(reference)
    for _ in range(60):
        detector.update(rng.multinomial(50, np.full(16, 1 / 16), size=200))
    for _ in range(12):
        detector.update(rng.multinomial(50, np.linspace(0.2, 1.8, 16) / 16, size=200))
    assert (detector.log_e > np.log(200 / 0.01)).mean() > 0.95
    assert np.median(detector.since_rows) == pytest.approx(600, abs=50)
    assert np.quantile(detector.since_rows, 0.9) < 1000


def test_evidence_ends_and_comes_down_again():
    reference = np.full((1, 17), 3000)
    near, far = np.full((1, 17), 10), np.array([[170] + [0] * 16])
    detector = fed(reference, [far] * 1000)
    assert detector.log_e[0] == pytest.approx(detect.LOG_E_MAX, abs=5)
    for _ in range(100):
        detector.update(near)
    assert detector.log_e[0] < np.log(1000)


class TestVerdict:
    FIXTURE = (500, 1.2, 0.3, 90, 40, 2500, 0.9, 5, 0.01, 35)

    @pytest.mark.parametrize(("alpha", "named"), [(0.1, {0, 3, 4, 5, 9}), (0.05, {0, 3, 5})])
    def test_the_fixture_is_reproduced(self, alpha, named):
        assert set(np.flatnonzero(detect.e_bh(np.log(self.FIXTURE), alpha))) == named

    @given(e=st.lists(st.floats(0.001, 1e6), max_size=12), alpha=st.floats(0.001, 0.5))
    def test_features_are_named_as_the_naive_twin_names_them(self, e, alpha):
        # A hair apart from the threshold, where a logarithm decides otherwise than a quotient.
        if all(abs(x * alpha * k / len(e) - 1) > 1e-9 for x in e for k in range(1, len(e) + 1)):
            assert set(np.flatnonzero(detect.e_bh(np.log(np.array(e)), alpha))) == naive.e_bh(e, alpha)

    @given(e=st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
    def test_the_mean_is_the_mean(self, e):
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(np.exp(detect.mean_e(np.log(np.array(e)))), np.mean(e), rtol=1e-9)

    @given(
        log_e=st.lists(st.floats(-20, 60), min_size=1, max_size=12),
        data=st.data(),
        alpha=st.floats(0.001, 0.5),
        blocks=st.integers(1, 10**6),
    )
    def test_whoever_names_a_feature_says_that_there_is_drift(self, log_e, data, alpha, blocks):
        far = data.draw(st.lists(st.floats(0, 1), min_size=len(log_e), max_size=len(log_e)))
        told = detect.verdict(np.array(log_e), np.array(far), blocks=blocks, alpha=alpha, distance_min=0.3)
        assert told.any or not told.drifted.any()
        assert not (told.drifted & (np.array(far) < 0.3)).any()

    def test_evidence_without_distance_is_no_drift_and_neither_is_distance_without_evidence(self):
        log_e = np.array([50.0, 50.0, 2.0, 50.0])
        far = np.array([0.09, 0.11, 5.0, np.nan])
        told = detect.verdict(log_e, far, blocks=2000, alpha=0.01, distance_min=0.1)
        assert told.drifted.tolist() == [False, True, False, False]
        assert told.any

    def test_no_features_have_not_drifted(self):
        told = detect.verdict(np.empty(0), np.empty(0), blocks=1, alpha=0.5, distance_min=0)
        assert (told.drifted.tolist(), told.any) == ([], False)


EDGES = 16


def alarmed_by_bursts(draw, *, trusting=False):
    rng = np.random.default_rng(12)
    values = draw(rng, 10_000, 200)
    edges, reference = profile(values)
    detector, told = Detector(reference, together=1), np.zeros(200, np.bool_)
    if trusting:
        detector._rows_per_row = lambda: 1.0
    for _ in range(200):
        detector.update(binned(draw(rng, 50, 200), edges))
        told |= detector.log_e >= np.log(200 / 0.01)
    return told.mean()


class TestBursts:
    """Rows that resemble each other: beyond what is promised, and yet the usual case."""

    @pytest.mark.parametrize("trusting", [True, False])
    def test_rows_that_come_twice_are_no_drift_only_where_that_is_seen(self, trusting):
        def draw(rng, rows, streams_):
            return np.repeat(rng.standard_normal((rows // 2, streams_)), 2, axis=0)

        assert (alarmed_by_bursts(draw, trusting=trusting) > 0.2) == trusting

    def test_a_stream_that_begins_with_rows_that_come_ten_times_is_not_taken_at_its_word(self):
        def draw(rng, rows, streams_):
            return np.repeat(rng.standard_normal((rows // 10, streams_)), 10, axis=0)

        assert alarmed_by_bursts(draw) < alarmed_by_bursts(draw, trusting=True) / 2

    @pytest.mark.parametrize("trusting", [True, False])
    def test_rows_that_resemble_the_last_are_no_drift_only_where_that_is_seen(self, trusting):
        def draw(rng, rows, streams_):
            values = rng.standard_normal((rows, streams_))
            for i in range(1, rows):
                values[i] = 0.5 * values[i - 1] + np.sqrt(0.75) * values[i]
            return values

        assert (alarmed_by_bursts(draw, trusting=trusting) > 0.2) == trusting


def profile(values):
    """Return references as profiles have them: edges at their own quantiles."""
    edges = np.quantile(values, np.linspace(0, 1, EDGES), axis=0)
    edges[-1] = np.nextafter(values.max(axis=0), np.inf)
    return edges, binned(values, edges)


def binned(values, edges):
    above = np.stack([(values >= edge).sum(axis=0) for edge in edges])
    return distance.bins(np.vstack([np.zeros((2, values.shape[1]), np.int64), above]), len(values))


def false_alarms(detector, rng, edges, *, rows=20_000, block=50, alpha=0.01):
    """Return the share of undrifted streams that ever alarm by evidence alone, each a feature of one detector."""
    blocks = rows // block
    alarmed = np.zeros(edges.shape[1], np.bool_)
    for _ in range(blocks):
        detector.update(binned(rng.standard_normal((block, edges.shape[1])), edges))
        alarmed |= detector.log_e >= np.log(blocks / alpha)
    return alarmed.mean()


class TestRates:
    """A small simulation; loadtests/driftbench/simulated.py is the one whose figures are told."""

    STREAMS = 500
    ALLOWED = 0.01 + 3 * np.sqrt(0.01 * 0.99 / STREAMS)

    @pytest.mark.parametrize("n", [2000, 10_000])
    def test_false_alarms_are_no_more_than_configured(self, n):
        rng = np.random.default_rng(n)
        edges, reference = profile(rng.standard_normal((n, self.STREAMS)))
        assert false_alarms(Detector(reference, together=1), rng, edges) <= self.ALLOWED

    def test_a_detector_that_takes_its_reference_for_the_truth_would_not_pass(self):
        """Without fees: 2,000 rows that are given out as two billion."""
        rng = np.random.default_rng(2000)
        edges, reference = profile(rng.standard_normal((2000, self.STREAMS)))
        assert false_alarms(Detector(reference * 1_000_000, together=1), rng, edges) > 10 * self.ALLOWED

    def test_a_detector_that_forgets_to_count_its_looks_would_not_pass(self):
        """With 1 / alpha for its threshold instead of blocks / alpha."""
        rng = np.random.default_rng(7)
        edges, reference = profile(rng.standard_normal((10_000, self.STREAMS)))
        assert false_alarms(Detector(reference, together=1), rng, edges, alpha=0.01 * 400) > 10 * self.ALLOWED

    @pytest.mark.parametrize(
        ("change", "rows_max"),
        [
            (lambda z: z + 0.5, 250),
            (lambda z: z - 1.0, 100),
            (lambda z: z * 1.5, 250),
            (lambda z: np.sign(z) * 0.9 + z * 0.436, 300),
        ],
        ids=["mean +0.5 sd", "mean -1 sd", "sd x1.5", "bimodal"],
    )
    def test_a_change_is_found_as_soon_as_promised(self, change, rows_max):
        rng = np.random.default_rng(11)
        edges, reference = profile(rng.standard_normal((10_000, 200)))
        detector, first = Detector(reference, together=1), np.full(200, np.inf)
        for rows in range(-2000, 1000, 50):
            values = rng.standard_normal((50, 200))
            detector.update(binned(change(values) if rows >= 0 else values, edges))
            told = detector.log_e >= np.log(200 / 0.01)
            far = distance.psi_excess(reference, detector.changed) >= 0.1
            first[told & far & np.isinf(first)] = rows + 50
        assert np.median(first) <= rows_max
        assert (first > 0).mean() > 0.97
