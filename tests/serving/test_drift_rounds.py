"""How the process that counts for drift shares a core with the server: in portions, unless its ring fills."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.drift import rounds
from serving.drift.rounds import FULL_PART, Count
from serving.drift.sheet import HEAD

CAPACITY = 1000


def counting(rows_max: int, portions: list[int]) -> Count:
    """Return a stream whose rows are numbers, and whose portions are noted."""
    words = np.zeros(HEAD + 1, np.int64)

    def count_rows(rows: range) -> None:
        portions.append(len(rows))
        words[HEAD] += len(rows)

    def take(head: int, until: int, most: int) -> Any:
        return range(head, min(until, head + most))

    made = Count.__new__(Count)
    made._words, made._shown, made.capture = words, 0, None
    made._ring = SimpleNamespace(take=take, capacity=CAPACITY)  # type: ignore[assignment]
    made._counting = SimpleNamespace(count=count_rows, rows_max=rows_max)  # type: ignore[assignment]
    return made


@given(st.integers(1, CAPACITY), st.integers(1, 300))
def test_the_server_gets_its_core_between_portions_while_there_is_room(waiting: int, rows_max: int) -> None:
    portions: list[int] = []
    paused: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rounds.time, "sleep", lambda _s: paused.append(len(portions)))
        counting(rows_max, portions).count(waiting)
    assert sum(portions) == waiting
    assert max(portions) <= rows_max
    assert len(paused) == (len(portions) if waiting <= FULL_PART * CAPACITY else 0)
