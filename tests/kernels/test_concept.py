"""Do the detectors over labels find what became worse, and say what their naive twins say?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import concept
from kernels.concept import Adwin, Bucket, ErrorRate, PageHinkley
from tests.kernels import naive_concept as naive


@st.composite
def steps(draw, most=150):
    """Values around a level that changes now and then; eighths, so that sums are exact."""
    levels = draw(st.lists(st.tuples(st.integers(1, 50), st.integers(-3, 3)), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    values = [level + rng.integers(-4, 5) / 8 for length, level in levels for _ in range(length)]
    return [float(value) for value in values[:most]]


class TestErrorRate:
    @given(labels=st.lists(st.booleans(), min_size=1, max_size=30), rate=st.floats(0.01, 0.19))
    def test_the_evidence_is_the_sum_over_all_beginnings(self, labels, rate):
        detector = ErrorRate(rate)
        log_e = [detector.update(wrong) for wrong in labels][-1]
        assert log_e == pytest.approx(np.log(naive.error_rate_e(labels, rate)), rel=1e-9, abs=1e-9)

    @given(rate=st.floats(0.01, 0.99), better=st.floats(0, 1))
    def test_its_mean_is_at_most_the_number_of_labels_at_that_rate_or_a_lower_one(self, rate, better):
        for truth in (rate, rate * better):
            mean = 0.0
            for labels in itertools.product([False, True], repeat=6):
                detector = ErrorRate(rate)
                log_e = [detector.update(wrong) for wrong in labels][-1]
                mean += truth ** sum(labels) * (1 - truth) ** (6 - sum(labels)) * np.exp(log_e)
            assert mean <= 6 * (1 + 1e-9)

    def test_a_worse_model_is_found_and_then_forgiven(self):
        rng = np.random.default_rng(0)
        detector = ErrorRate(0.05)
        threshold = np.log(10_000 / 0.01)
        for wrong in rng.random(3000) < 0.05:
            assert detector.update(bool(wrong)) < threshold
        worse = [detector.update(bool(wrong)) for wrong in rng.random(2000) < 0.2]
        assert np.argmax(np.array(worse) >= threshold) < 300
        assert max(worse) <= concept.LOG_E_MAX
        better = [detector.update(bool(wrong)) for wrong in rng.random(15_000) < 0.05]
        assert better[-1] < threshold

    def test_before_the_first_label_there_is_no_evidence(self):
        assert ErrorRate(0.1).log_e == -np.inf

    @pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, np.nan])
    def test_a_rate_that_cannot_rise_is_refused(self, rate):
        with pytest.raises(ValueError, match="an error rate to watch lies between 0 and 1"):
            ErrorRate(rate)


class TestPageHinkley:
    @given(values=steps(), slack=st.sampled_from([0.0, 0.125]), threshold=st.integers(1, 20))
    def test_it_tells_where_its_naive_twin_tells(self, values, slack, threshold):
        detector = PageHinkley(slack, threshold + 0.03, 10)
        told = [i for i, value in enumerate(values) if detector.update(value)]
        assert told == naive.page_hinkley(values, slack, threshold + 0.03, 10)

    @given(values=steps())
    def test_up_and_down_are_alike(self, values):
        one, other = PageHinkley(0.1, 5.03), PageHinkley(0.1, 5.03)
        assert [one.update(value) for value in values] == [other.update(-value) for value in values]


class TestAdwin:
    @given(values=steps(), every=st.integers(1, 8))
    def test_it_tells_where_its_naive_twin_tells(self, values, every):
        ours, twin = Adwin(0.05, every, 5), naive.Adwin(0.05, every, 5)
        for value in values:
            assert ours.update(value) == twin.update(value)
            assert ours.window.count == len(twin.values)
            assert [b.count for s in reversed(ours.sizes) for b in s] == twin.sizes
        assert twin.descending()

    @given(values=steps(), cut=st.integers(0, 150))
    def test_buckets_add_up_and_come_apart(self, values, cut):
        def bucket(part):
            total = Bucket()
            for value in part:
                total += Bucket(1, value)
            return total

        cut = min(cut, len(values))
        first, rest, whole = bucket(values[:cut]), bucket(values[cut:]), bucket(values)
        for got in (first + rest, rest + first):
            assert (got.count, got.total) == (whole.count, whole.total)
            assert got.squares == pytest.approx(len(values) * np.var(values), rel=1e-9, abs=1e-9)
        left = whole - first
        assert (left.count, left.total) == (rest.count, rest.total)
        assert left.squares == pytest.approx(rest.squares, rel=1e-9, abs=1e-9)

    def test_a_step_is_found_and_the_window_begins_behind_it(self):
        rng = np.random.default_rng(3)
        detector = Adwin()
        assert not any(detector.update(value) for value in rng.standard_normal(3000))
        assert detector.window.count == 3000
        told = [detector.update(value) for value in 1 + rng.standard_normal(1000)]
        assert np.argmax(told) < 100
        assert detector.window.mean == pytest.approx(1, abs=0.1)
        assert 900 < detector.window.count < 1100

    def test_its_memory_grows_with_the_logarithm_of_the_stream(self):
        detector = Adwin()
        for _ in range(50_000):
            detector.update(0.0)
        assert detector.window.count == 50_000
        assert sum(map(len, detector.sizes)) <= concept.BUCKETS_MAX * np.log2(50_000)

    def test_false_alarms_are_rarer_than_its_confidence_suggests(self):
        rng = np.random.default_rng(8)
        told = 0
        for _ in range(60):
            detector = Adwin(0.002)
            told += any(detector.update(value) for value in rng.random(2000))
        assert told <= 1
