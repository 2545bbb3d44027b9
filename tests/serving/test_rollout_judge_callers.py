"""With sticky routing it is the caller that is dealt, and counts once, over all weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.change import SetRoute
from router.entry import Entry
from router.history import History
from router.rollout import Word
from router.table import WHOLE_BP, Route, Share, everything_to
from router.verb import Verb
from serving.evidence.counts import BITMAP_BYTES, Counts
from serving.rollout.arms import Draw, compare, draws, epochs_of
from serving.rollout.evidence import Cell
from tests.judging import CANDIDATE, FAILURE, FIRST, STABLE, cells_of, draws_of, judged, plan_of, rollout_of

GROWING = (1000, 2500)


def bitmap(slots) -> bytes:
    return sum(1 << int(slot) for slot in set(slots)).to_bytes(BITMAP_BYTES, "little")


def sticky(callers, bad, times=1) -> Counts:
    """Return the counts of callers, by their slots, of whom some had failures, each so many times."""
    held = {"request": len(callers) * times, "failure": len(bad) * times}
    bitmaps = {"request": bitmap(callers), "failure": bitmap(bad)}
    return Counts(len(callers) * times, len(bad) * times, held=held, callers=bitmaps)


def compared(cells, weights_bp=(1000,)):
    rollout = rollout_of(plan_of(FAILURE, weights_bp=weights_bp))
    return compare(epochs_of(cells, draws_of(rollout), CANDIDATE, STABLE, apart=False), "failure")


def test_a_caller_counts_once_however_often_it_fails():
    def rows(times):
        cells = cells_of((sticky(range(50), [1, 2], times), sticky(range(1000, 2000), [1500], times)))
        return compared(cells).rows

    assert rows(1) == rows(100) == ((FIRST, 0.1, 2, 1, 50, 1000),)


def test_a_caller_that_failed_before_says_nothing_new_when_the_candidate_grows():
    one = sticky(range(900), range(100)), sticky(range(1000, 4000), range(1000, 1100))
    two = sticky(range(2000), range(300)), sticky(range(2500, 5000), range(2500, 2540))
    first, second = compared(cells_of(one, two), GROWING).rows
    assert first == (FIRST, 0.1, 100, 100, 900, 3000)
    # Of its 2,500 slots 200 have had one, and of all 10,000 the same.
    assert second == (FIRST + 1, (2500 - 200) / (WHOLE_BP - 200), 200, 40, 2000, 2500)


def test_a_caller_is_one_in_all_epochs_together():
    one = sticky(range(500), [3]), sticky(range(1000, 2000), [])
    two = sticky(range(500), [3, 4]), sticky(range(2500, 3000), [])
    found = compared(cells_of(one, two), GROWING)
    assert (found.candidate, found.stable) == ((2, 500), (0, 1500))


def test_requests_without_a_key_count_by_the_weight_beside_callers():
    drawn = Counts(requests=100, failed=5)
    cells = cells_of((sticky(range(50), [1]) + drawn, sticky(range(1000, 2000), []) + drawn))
    assert compared(cells).rows == ((FIRST, 0.1, 5, 5, 100, 100), (FIRST, 0.1, 1, 0, 50, 1000))


@given(st.integers(1, 20))
def test_one_bad_caller_fails_nobody(times):
    rollout = rollout_of(plan_of(FAILURE, weights_bp=[100]))
    cells = cells_of((sticky(range(50), [1], 1000 * times), sticky(range(1000, 2000), [])))
    assert judged(rollout, cells).word is Word.RUNNING


def test_of_good_candidates_at_most_alpha_are_rolled_back_where_callers_stay():
    rng, rollouts, alpha = np.random.default_rng(4), 100, 0.05
    rollout = rollout_of(plan_of(FAILURE, weights_bp=(500, 1500, 3000), alpha=alpha))
    dealt = draws_of(rollout)
    failed = 0
    for _ in range(rollouts):
        slots = rng.integers(0, WHOLE_BP, 1500)
        # A few callers have most of the trouble, again and again.
        trouble = rng.random(1500) ** 8 * 0.1
        bad = {epoch: set() for epoch in dealt}
        words = []
        for epoch in dealt:
            for _ in range(3):
                bad[epoch] |= set(slots[rng.random(1500) < trouble].tolist())
                sides = [
                    tuple(
                        sticky([s for s in slots.tolist() if s in of], [s for s in bad[each] if s in of])
                        for of in (dealt[each].candidate, dealt[each].stable)
                    )
                    for each in dealt
                    if each <= epoch
                ]
                words.append(judged(rollout, cells_of(*sides)).word)
        failed += Word.FAILED in words
    assert failed / rollouts <= alpha + 3 * (alpha * (1 - alpha) / rollouts) ** 0.5


def test_epochs_are_dealt_as_the_journal_says():
    history = History()

    def route(made):
        change = SetRoute(Verb.SPLIT, "fraud", made)
        history.add(Entry(history.revision + 1, 1, 0, "test", "test", change, history.last_hash))

    split = Route((Share(CANDIDATE, 500), Share(STABLE, 9500)), baseline_bp=500)
    for each in (everything_to(STABLE), everything_to(STABLE), split, everything_to(STABLE)):
        route(each)
    cells = {Cell(epoch, CANDIDATE, "split"): Counts() for epoch in (1, 2, 3, 4, 9)}
    rollout = rollout_of(plan_of(FAILURE))
    assert draws(history, rollout, cells) == {3: Draw(range(500), range(500, 10_000), range(500, 1000))}


def test_a_candidate_that_is_the_older_version_is_found_at_the_high_end():
    older = Route((Share("6", 500), Share(STABLE, 9500)), baseline_bp=500)
    draw = Draw.of(older, "6", STABLE)
    assert draw == Draw(range(9500, 10_000), range(9500), range(500))
    assert Draw.of(everything_to(STABLE), "6", STABLE) is None
