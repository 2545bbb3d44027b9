"""Is each row drawn for itself, with the share's probability, whatever batch it comes in?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.shadow.draw import DRAWN, Draw

WHOLE = 10_000


def drawn(share_bp, sizes, seed):
    """Return the places of all rows drawn from batches of these sizes."""
    draw, start, places = Draw(share_bp, np.random.default_rng(seed)), 0, []
    for size in sizes:
        rows = draw.rows(size)
        assert rows is None or (np.diff(rows) > 0).all()
        assert rows is None or (len(rows) and rows[0] >= 0 and rows[-1] < size)
        places += [] if rows is None else (start + rows).tolist()
        start += size
    return places


sizes = st.lists(st.integers(1, 64) | st.integers(1, 3 * DRAWN), max_size=50)


@given(st.integers(1, WHOLE), sizes, st.integers(0, 2**32))
def test_rows_are_drawn_the_same_whatever_batches_they_come_in(share_bp, sizes, seed):
    at_once = drawn(share_bp, [sum(sizes)] if sizes else [], seed)
    assert drawn(share_bp, sizes, seed) == at_once


def test_of_the_whole_every_row_is_drawn():
    assert drawn(WHOLE, [5, 2000, 1], 0) == list(range(2006))


@pytest.mark.parametrize("share_bp", [1, 100, 2000, 9999])
def test_the_part_that_is_drawn_is_the_share(share_bp):
    rows, part = 200_000, share_bp / WHOLE
    found = np.array(drawn(share_bp, [rows], 5))
    spread = math.sqrt(rows * part * (1 - part))
    assert abs(len(found) - rows * part) < 5 * spread
    # In both halves of the batches alike.
    assert abs((found % 64 < 32).sum() - len(found) / 2) < 5 * math.sqrt(len(found) / 4)
