"""Are the statistics of channels NumPy's, wherever the channels are?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import channels
from kernels.channels import HIGH, LANES, LOW, STATISTICS
from tests.kernels import naive_drift as naive

sizes = st.integers(1, 9) | st.sampled_from([LANES - 1, LANES, LANES + 1, 5 * LANES + 3])


@st.composite
def images(draw):
    """Return images, channels first, of which some hold what is no number."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(st.integers(0, 3)), draw(st.integers(1, 5) | st.just(LANES + 2)), draw(sizes)
    x = (rng.normal(size=shape) * draw(st.sampled_from([0, 1, 50])) + draw(st.sampled_from([0, 100]))).astype(
        dtype
    )
    if draw(st.booleans()):
        some = rng.random(shape) < 0.05
        x[some] = rng.choice(np.array([np.nan, np.inf, -np.inf], dtype), int(some.sum()))
    return x


def summed(x, by):
    rows, many = x.shape[0], x.shape[1] if by in (channels.first, naive.first) else x.shape[2]
    out = np.empty((rows, STATISTICS * many), x.dtype)
    by(np.ascontiguousarray(x), out)
    return out


@given(images())
def test_channels_first_are_summed_up_as_the_naive_reading_does(x):
    close = 1e-6 if x.dtype == np.float32 else 1e-12
    assert summed(x, channels.first) == pytest.approx(
        summed(x, naive.first), rel=close, abs=close, nan_ok=True
    )


@given(images())
def test_channels_last_are_summed_up_as_the_naive_reading_does(x):
    close = 1e-6 if x.dtype == np.float32 else 1e-12
    x = x.transpose(0, 2, 1)
    assert summed(x, channels.last) == pytest.approx(summed(x, naive.last), rel=close, abs=close, nan_ok=True)


@given(images())
def test_extremes_are_exact(x):
    out = summed(x, channels.first).reshape(*x.shape[:2], STATISTICS)
    assert np.array_equal(out[..., LOW], x.min(axis=2), equal_nan=True)
    assert np.array_equal(out[..., HIGH], x.max(axis=2), equal_nan=True)


@given(images(), st.integers(0, 3))
def test_an_image_is_summed_up_the_same_in_every_batch(x, at):
    for by in (channels.first, channels.last):
        parts = np.concatenate([summed(x[:at], by), summed(x[at:], by)])
        assert np.array_equal(parts, summed(x, by), equal_nan=True)


def test_a_channel_of_one_colour_does_not_deviate():
    x = np.full((1, 2, 50_176), 0.1, np.float32)
    assert (
        summed(x, channels.first).reshape(2, STATISTICS).tolist()
        == [[np.float32(0.1), 0] + [np.float32(0.1)] * 2] * 2
    )


def test_one_pixel_that_is_far_off_does_not_cost_the_digits_of_the_others():
    x = np.full((1, 1, 4096), 1e7) + np.linspace(-1e-3, 1e-3, 4096)
    assert summed(x, channels.first)[0, 1] == pytest.approx(x.std(), rel=1e-9)
