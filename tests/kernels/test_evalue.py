"""Is evidence about a canary what its naive twin says, and is a good canary's never more than even?"""

from __future__ import annotations

import math
import random
import subprocess
import sys
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import evalue
from kernels.evalue import Events, bar, log_e, log_e_paired, log_e_paired_within, log_e_within, log_mean
from tests.kernels import naive_evalue as naive

weights = st.floats(0.001, 0.999)
counts = st.integers(0, 40)
epochs = st.lists(st.builds(Events, counts, counts, weights), max_size=4)
tolerances = st.floats(0.5, 4)


def each(epochs):
    return [
        (canary, epoch.weight)
        for epoch in epochs
        for canary in [True] * epoch.canary + [False] * epoch.baseline
    ]


def binomial(n, k, share):
    return math.comb(n, k) * share**k * (1 - share) ** (n - k)


class TestDefinition:
    @given(epochs=epochs, tolerance=tolerances)
    def test_evidence_is_the_mean_of_bets_that_multiply_at_each_event(self, epochs, tolerance):
        expected = math.log(naive.e_value(each(epochs), tolerance))
        assert log_e(epochs, tolerance=tolerance) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @given(epochs=epochs, ratio=st.floats(1.1, 30))
    def test_evidence_for_a_canary_is_a_bet_against_its_being_so_bad(self, epochs, ratio):
        expected = math.log(naive.e_value_within(each(epochs), ratio))
        assert log_e_within(epochs, ratio=ratio) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def test_the_fixture_is_reproduced(self):
        fixture = [Events(8, 12, 0.1)]
        assert math.exp(log_e(fixture)) == pytest.approx(136.62558496774594, rel=1e-13)
        stakes = [math.exp(stake) for stake in evalue.log_stakes(fixture)]
        expected = [3.6375, 9.6593, 38.0528, 171.1375, 466.8736, 266.0284, 0.9901]
        assert stakes == pytest.approx(expected, abs=5e-5)
        assert log_e(fixture) >= bar(0.01)
        # The one look that a binomial test may take is surer, and may be taken once.
        assert sum(binomial(20, k, 0.1) for k in range(8, 21)) == pytest.approx(4.1563e-4, rel=1e-4)

    def test_63_errors_in_proportion_say_that_a_canary_of_a_tenth_is_not_3_times_as_bad(self):
        per_error = log_e_within([Events(1, 9, 0.1)], ratio=3) / 10
        assert math.floor(bar(0.01) / per_error) == 63

    @given(worse=counts, better=counts)
    def test_a_pair_multiplies_by_twice_the_share_that_is_bet_on(self, worse, better):
        shares = (0.55, 0.6, 0.7, 0.8, 0.9)
        expected = sum((2 * share) ** worse * (2 - 2 * share) ** better for share in shares) / len(shares)
        assert log_e_paired(worse, better) == pytest.approx(math.log(expected), rel=1e-9, abs=1e-9)

    def test_before_the_first_event_there_is_no_evidence(self):
        nothing = [Events(0, 0, 0.1)]
        for evidence in (log_e([]), log_e(nothing), log_e_within(nothing, ratio=2), log_e_paired(0, 0)):
            assert evidence == pytest.approx(0, abs=1e-12)


class TestAGoodCanary:
    @given(n=st.integers(0, 12), weight=weights, tolerance=tolerances, better=st.floats(0, 1))
    def test_the_mean_of_evidence_is_at_most_even_as_bad_as_is_tolerated_or_better(
        self, n, weight, tolerance, better
    ):
        for truth in (1.0, better):
            share = evalue.shifted(weight, tolerance) * truth
            mean = sum(
                binomial(n, k, share) * math.exp(log_e([Events(k, n - k, weight)], tolerance=tolerance))
                for k in range(n + 1)
            )
            assert mean <= 1 + 1e-9
            if truth == 1.0:
                assert mean == pytest.approx(1, rel=1e-9)

    @given(
        past=st.lists(st.builds(Events, counts, counts, weights), max_size=3),
        weight=weights,
        better=st.floats(0, 1),
    )
    def test_whatever_happened_the_next_event_gains_nothing_on_average(self, past, weight, better):
        share = weight * better
        after = share * math.exp(log_e([*past, Events(1, 0, weight)]) - log_e(past))
        after += (1 - share) * math.exp(log_e([*past, Events(0, 1, weight)]) - log_e(past))
        assert after <= 1 + 1e-9

    @given(n=st.integers(0, 12), weight=weights, ratio=st.floats(1.05, 30), worse=st.floats(1, 10))
    def test_a_canary_that_is_so_bad_or_worse_has_no_evidence_for_it_on_average(
        self, n, weight, ratio, worse
    ):
        share = evalue.shifted(weight, ratio * worse)
        mean = sum(
            binomial(n, k, share) * math.exp(log_e_within([Events(k, n - k, weight)], ratio=ratio))
            for k in range(n + 1)
        )
        assert mean <= 1 + 1e-9

    @given(n=st.integers(0, 12), tolerated=st.floats(0.3, 0.8), better=st.floats(0, 1))
    def test_of_pairs_too_it_is_at_most_even(self, n, tolerated, better):
        mean = sum(
            binomial(n, k, tolerated * better) * math.exp(log_e_paired(k, n - k, tolerance=tolerated))
            for k in range(n + 1)
        )
        assert mean <= 1 + 1e-9

    @given(n=st.integers(0, 12), share=st.floats(0.51, 0.95), worse=st.floats(0, 1))
    def test_of_pairs_too_nothing_speaks_for_a_bad_shadow(self, n, share, worse):
        truth = share + (1 - share) * worse
        mean = sum(
            binomial(n, k, truth) * math.exp(log_e_paired_within(k, n - k, share=share)) for k in range(n + 1)
        )
        assert mean <= 1 + 1e-9


class TestLaws:
    @given(epochs=epochs, more=st.builds(Events, st.integers(0, 40), st.integers(0, 40), weights))
    def test_an_event_of_the_canary_speaks_against_it_and_one_of_the_baseline_for_it(self, epochs, more):
        now = log_e([*epochs, more])
        assert log_e([*epochs, Events(more.canary + 1, more.baseline, more.weight)]) > now
        assert log_e([*epochs, Events(more.canary, more.baseline + 1, more.weight)]) < now
        for_it = log_e_within([*epochs, more], ratio=2)
        assert log_e_within([*epochs, Events(more.canary + 1, more.baseline, more.weight)], ratio=2) < for_it
        assert log_e_within([*epochs, Events(more.canary, more.baseline + 1, more.weight)], ratio=2) > for_it

    @given(epochs=epochs, seed=st.integers(0, 99))
    def test_the_order_of_epochs_says_nothing(self, epochs, seed):
        shuffled = random.Random(seed).sample(epochs, len(epochs))
        assert log_e(shuffled) == log_e(epochs)
        assert log_e_within(shuffled, ratio=3) == log_e_within(epochs, ratio=3)

    @given(a=counts, b=counts, c=counts, d=counts, weight=weights)
    def test_counts_of_one_weight_may_be_added(self, a, b, c, d, weight):
        apart = [Events(a, b, weight), Events(c, d, weight)]
        merged = [Events(a + c, b + d, weight)]
        assert log_e(apart) == pytest.approx(log_e(merged), rel=1e-9, abs=1e-9)

    @given(epochs=epochs, tolerance=st.floats(1, 4), more=st.floats(1, 3))
    def test_what_is_tolerated_takes_evidence_away(self, epochs, tolerance, more):
        less = log_e(epochs, tolerance=tolerance * more)
        assert less <= log_e(epochs, tolerance=tolerance) + 1e-9

    @given(epochs=epochs, ratio=st.floats(1.05, 20))
    def test_no_counts_say_both_that_a_canary_is_worse_than_that_and_that_it_is_not(self, epochs, ratio):
        against, for_it = log_e(epochs, tolerance=ratio), log_e_within(epochs, ratio=ratio)
        assert not (against >= bar(0.5) and for_it >= bar(0.5))

    def test_counts_as_large_as_they_get_are_no_trouble(self):
        bad = Events(10**9, 10**9, 0.0001)
        assert math.isfinite(log_e([bad])) and log_e([bad]) > 1e8
        assert math.isfinite(log_e([Events(10**5, 10**9, 0.0001)])) and log_e([Events(0, 10**9, 0.5)]) < -1e7


class TestMeans:
    @given(
        logs=st.lists(st.floats(-500, 500), min_size=1, max_size=6),
        scale=st.floats(0.1, 10),
        data=st.data(),
    )
    def test_the_mean_lies_between_the_least_and_the_greatest(self, logs, scale, data):
        weights = [data.draw(st.floats(0.1, 5)) for _ in logs]
        mean = log_mean(logs, weights)
        assert min(logs) - 1e-9 <= mean <= max(logs) + 1e-9
        assert mean == pytest.approx(log_mean(logs, [scale * each for each in weights]), abs=1e-9)

    def test_it_is_the_mean_of_e_values_and_not_of_logarithms(self):
        logs = [math.log(300), math.log(0.5), -math.inf]
        assert math.exp(log_mean(logs)) == pytest.approx(300.5 / 3)
        assert math.exp(log_mean(logs, [1, 2, 1])) == pytest.approx(301 / 4)
        assert log_mean([-math.inf]) == -math.inf


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Events(-1, 0, 0.1), "counts of events are at least 0"),
        (lambda: Events(0, 0, 0.0), "a weight to compare at lies between 0 and 1"),
        (lambda: Events(0, 0, 1.0), "a weight to compare at lies between 0 and 1"),
        (lambda: Events(0, 0, math.nan), "a weight to compare at lies between 0 and 1"),
        (lambda: bar(0), "a rate of false alarms lies between 0 and 1"),
        (lambda: log_e([], tolerance=0), "a tolerance is above 0"),
        (lambda: log_e([], ratios=(1.0, 2.0)), "a bet above 1"),
        (lambda: log_e_within([], ratio=1), "a ratio to rule out is above 1"),
        (lambda: log_e_paired(0, 0, tolerance=1), "a share of pairs lies between 0 and 1"),
        (lambda: log_e_paired_within(0, 0, share=0.5), "a ratio to rule out is above 1"),
        (lambda: log_mean([]), "at least one e-value"),
        (lambda: log_mean([0.0], [0.0]), "weights of e-values are above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        wrong()


def test_a_verdict_takes_less_than_a_millisecond():
    growing = [Events(80, 120, weight) for weight in (0.01, 0.05, 0.25, 0.5)]
    assert min(timeit.repeat(lambda: log_e(growing), number=1, repeat=50)) < 1e-3


def test_the_control_can_judge_without_what_compiles_kernels():
    modules = "evalue, kernels.confidence, kernels.betting, kernels.callers, kernels.passage"
    said = f"import sys, kernels.{modules}; print(sorted({{'numba', 'scipy'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True).stdout == "[]\n"
