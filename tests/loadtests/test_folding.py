"""Does the benchmark of the fold compare like with like, and is the fold still made of wide instructions?"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from loadtests.bench.errors import BenchError
from loadtests.driftbench import folding
from loadtests.driftbench.folding import SHAPES, contenders, rounds_ns, work


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_every_contender_comes_to_the_same_counts_whatever_the_numbers(odd):
    w = work(300, 5)
    w.x[::7, 1] = odd
    assert set(contenders(w)) > {"fold"}  # They are compared in there.


def test_the_fold_is_several_times_as_fast_as_numpy_because_its_loops_are_vectorised():
    """Measured as ten times as fast. A single loop that is not vectorised costs more than all the others."""
    w = work(*SHAPES[0])
    calls = contenders(w)
    taken = rounds_ns({name: calls[name] for name in ("fold", "numpy at once")}, w.x.size, rounds=9)
    assert min(taken["numpy at once"]) > 4 * min(taken["fold"])


def test_without_river_its_row_says_so_and_its_goal_is_missed(monkeypatch):
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(BenchError, match="river is not installed"):
        next(folding.against_river("river", rounds=1))
    monkeypatch.setattr(folding, "SHAPES", ((2, 3),))
    monkeypatch.setattr(folding, "BURST_S", 1e-6)
    *figures, river = folding.folding(rounds=1)
    assert all(row.value for row in figures)
    assert river.missed and "river" in river.note
