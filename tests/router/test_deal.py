"""Is traffic dealt as configured: the fixture, and how often a good router is called a bad one."""

from __future__ import annotations

from math import exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.deal import log_e_value

SPLIT = {"8": 1000, "7": 9000}


def test_the_evidence_is_that_of_the_published_mixture() -> None:
    assert exp(log_e_value({"8": 8, "7": 12}, SPLIT)) == pytest.approx(88.96787544171089, rel=1e-9)


def test_nothing_drawn_is_no_evidence() -> None:
    assert log_e_value({}, SPLIT) == 0
    assert log_e_value({"7": 10**6}, {"7": 10_000, "6": 0}) == pytest.approx(0, abs=1e-6)


def test_one_draw_of_no_weight_is_all_the_evidence_there_is() -> None:
    assert log_e_value({"6": 1}, {"7": 10_000, "6": 0}) == inf
    assert log_e_value({"9": 1}, SPLIT) == inf


@given(st.integers(1, 6), st.integers(0, 500))
def test_the_expectation_is_one_if_the_weights_are_right(versions: int, seed: int) -> None:
    """For a single draw that is exact: the sum over what can come out."""
    cuts = np.sort(np.random.default_rng(seed).integers(1, 10_000, versions - 1))
    widths = np.diff([0, *cuts, 10_000])
    weights = {str(at): int(width) for at, width in enumerate(widths)}
    mean = sum(w / 10_000 * exp(log_e_value({v: 1}, weights)) for v, w in weights.items() if w)
    assert mean == pytest.approx(1)


def test_a_router_that_deals_right_is_hardly_ever_called_wrong_however_often_one_looks() -> None:
    rng = np.random.default_rng(17)
    alarms = 0
    for _ in range(300):
        canary = np.cumsum(rng.random(4000) < 0.1)[::20]
        drawn = np.arange(1, 4001)[::20]
        worst = max(
            log_e_value({"8": int(a), "7": int(n - a)}, SPLIT) for a, n in zip(canary, drawn, strict=True)
        )
        alarms += worst >= log(100)
    assert alarms <= 300 * 0.01 + 3 * (300 * 0.01) ** 0.5


def test_a_router_that_deals_wrong_is_found_out() -> None:
    assert log_e_value({"8": 170, "7": 830}, SPLIT) > log(1e4)
