"""Is a projection fixed for ever, the same however it is computed, and true to distances?"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import projection
from kernels.projection import GROUP, OUTPUTS
from tests.kernels import naive_drift as naive

compiled = projection.compiled()
lengths = st.integers(0, 9) | st.sampled_from([GROUP, GROUP + 1, 5 * GROUP - 1, 100])


@st.composite
def batches(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(size=(draw(lengths), draw(lengths))).astype(np.float32)
    if draw(st.booleans()):
        some = rng.random(x.shape) < 0.05
        x[some] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e-45, 3e38], np.float32), int(some.sum()))
    return x


def projected(x, by=compiled):
    out = np.empty((len(x), OUTPUTS), np.float32)
    by(np.ascontiguousarray(x), projection.matrix(x.shape[1]), out)
    return out


@given(batches())
def test_all_forms_give_the_same_to_the_last_bit(x):
    wanted = projected(x, naive.project)
    assert np.array_equal(projected(x), wanted, equal_nan=True)
    assert np.array_equal(projection.project(x, projection.matrix(x.shape[1])), wanted, equal_nan=True)


@given(batches(), st.lists(st.integers(0, 100), max_size=3))
def test_a_row_has_the_same_projection_in_every_batch(x, cuts):
    parts = np.concatenate([projected(part) for part in np.split(x, sorted(cuts))])
    assert np.array_equal(parts, projected(x), equal_nan=True)


def test_the_projection_is_the_one_that_profiles_were_made_with():
    signs = np.ascontiguousarray(projection.matrix(768) > 0)
    assert hashlib.sha256(np.packbits(signs).tobytes()).hexdigest()[:16] == "aec9bf4f3438ce78"


def test_signs_are_as_often_negative_as_not_and_no_two_columns_are_alike():
    signs = np.sign(projection.matrix(4096).astype(np.float64))
    assert np.abs(signs.mean(axis=0)).max() < 4 / np.sqrt(4096)
    assert np.abs(signs.T @ signs / 4096 - np.eye(OUTPUTS)).max() < 5 / np.sqrt(4096)


def test_distances_survive_but_for_a_factor():
    x = np.random.default_rng(7).normal(size=(40, 768)).astype(np.float32)
    p = projected(x)
    pairs = np.triu_indices(40, 1)
    true = np.linalg.norm(x[pairs[0]] - x[pairs[1]], axis=1) * np.sqrt(OUTPUTS / 768)
    assert np.linalg.norm(p[pairs[0]] - p[pairs[1]], axis=1) / true == pytest.approx(
        np.ones(len(true)), abs=0.6
    )


def test_a_sum_is_as_large_as_an_element_however_long_the_row():
    rng = np.random.default_rng(7)
    for length in (64, 768, 10_000):
        assert projected(rng.normal(size=(200, length)).astype(np.float32)).std() == pytest.approx(1, abs=0.1)
