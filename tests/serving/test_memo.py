"""What a bounded memory of repeated things promises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.memo import Memo

keys = st.lists(st.integers(0, 40), max_size=200)


def look(memo: Memo[int, str], key: int) -> str | None:
    return memo.get(key) or memo.recall(key)


@settings(max_examples=50, deadline=None)
@given(keys, st.integers(2, 20))
def test_it_never_holds_more_than_its_entries_and_never_a_wrong_value(asked, entries_max):
    memo: Memo[int, str] = Memo(entries_max, entry_bytes_max=8)
    for key in asked:
        found = look(memo, key)
        assert found in (None, str(key))
        if found is None:
            memo.keep(key, str(key), 1)
            assert look(memo, key) == str(key)
        assert len(memo) <= entries_max


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 64))
def test_a_flood_of_strangers_never_drives_out_an_entry_in_use(entries_max):
    memo: Memo[int, str] = Memo(entries_max, entry_bytes_max=8)
    memo.keep(-1, "in use", 1)
    for stranger in range(10 * entries_max):
        memo.keep(stranger, "once", 1)
        assert look(memo, -1) == "in use"


def test_what_is_not_asked_for_again_is_forgotten():
    memo: Memo[int, str] = Memo(8, entry_bytes_max=8)
    memo.keep(-1, "once", 1)
    for stranger in range(8):
        memo.keep(stranger, "once", 1)
    assert look(memo, -1) is None


def test_an_entry_that_is_too_heavy_is_not_kept():
    memo: Memo[int, str] = Memo(8, entry_bytes_max=8)
    memo.keep(1, "heavy", 9)
    assert look(memo, 1) is None
