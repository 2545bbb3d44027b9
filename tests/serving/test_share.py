"""Shares of replicas add up, and those of an earlier route do not count any more."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.share import ShareReading

counts = st.integers(0, 1000)


@st.composite
def readings(draw: st.DrawFn) -> ShareReading:
    drawn, held = draw(counts), draw(counts)
    return ShareReading(
        draw(st.integers(0, 3)),
        2500,
        drawn,
        held,
        drawn + draw(counts),
        held + draw(counts),
        draw(counts),
        draw(counts),
    )


@given(st.lists(readings(), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_replicas_does_not_matter(some: list[ShareReading], random) -> None:
    shuffled = random.sample(some, len(some))
    assert reduce(add, some) == reduce(add, shuffled)


@given(st.lists(readings(), min_size=1, max_size=5))
def test_only_the_latest_epoch_counts_and_totals_never_shrink(some: list[ShareReading]) -> None:
    total = reduce(add, some)
    latest = [each for each in some if each.epoch == total.epoch]
    assert total.drawn == sum(each.drawn for each in latest)
    assert total.split_total == sum(each.split_total for each in some)


def test_a_share_is_what_was_dealt_of_all() -> None:
    reading = ShareReading(3, 1000, 8, 0, 20, 0)
    assert (reading.weight, reading.ratio) == (0.1, 0.4)
    assert reading.evidence_log10 == pytest.approx(1.949, abs=1e-3)
    assert ShareReading(3, 1000).ratio == 0.1
