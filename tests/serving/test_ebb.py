"""Is memory given back once much of it was in use and is no longer, and not again and again?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.ebb import MUCH_BYTES, PART, Ebb


@given(st.lists(st.integers(0, 4 * MUCH_BYTES), max_size=50))
def test_it_is_time_once_after_each_flood_and_never_without_one(readings):
    ebb, most = Ebb(), 0
    for now in readings:
        most = max(most, now)
        due = most >= MUCH_BYTES and now <= most // PART
        assert ebb.look(now) is due
        if due:
            most = 0
            assert not ebb.look(now) or now >= MUCH_BYTES
            most = max(most, now)
