"""Is it noticed that a version is wrong more often than it was, and not when it is not?"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Deciding, Labels
from serving.labels.losses import CLASSES, SCORES, Losses, lost
from serving.labels.stream import DEGRADED, RECOVERED, RECOVERED_WRONG, Stream, Terms, highest_rate

TERMS = Terms(0.0, 1000, 0.01, 10_000)


def fed(stream: Stream, losses: np.ndarray) -> list[tuple[int, str]]:
    """Return what happened, and after how many labels."""
    turns = [stream.take(float(loss), at) for at, loss in enumerate(losses)]
    return [(at, turn) for at, turn in enumerate(turns) if turn]


def wrong(rate: float, count: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(count) < rate).astype(float)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_a_version_that_stays_as_it_was_is_not_called_worse(rate):
    alarms = sum(bool(fed(Stream(TERMS), wrong(rate, 6000, seed))) for seed in range(20))
    assert alarms <= 1  # 1 % of 20 within 10,000 labels, and two standard deviations.


def test_a_version_that_is_always_right_is_never_called_worse():
    assert fed(Stream(TERMS), np.zeros(10_000)) == []


@pytest.mark.parametrize(
    ("before", "after", "labels_max"), [(0.05, 0.2, 400), (0.05, 0.15, 700), (0.01, 0.1, 400)]
)
def test_one_that_gets_worse_is_found_out_soon(before, after, labels_max):
    delays = []
    for seed in range(20):
        stream = Stream(TERMS)
        assert fed(stream, wrong(before, 2000, seed)) == []
        turns = ((at, stream.take(loss, at)) for at, loss in enumerate(wrong(after, 4000, seed + 100)))
        at, turn = next((each for each in turns if each[1]), (math.inf, ""))
        assert turn == DEGRADED
        delays.append(at)
    assert np.median(delays) <= labels_max, delays


def test_it_recovers_when_it_is_as_it_was_and_may_degrade_again():
    stream = Stream(TERMS)
    parts = [wrong(0.05, 2000, 1), wrong(0.3, 1500, 2), wrong(0.05, 4000, 3), wrong(0.3, 1000, 4)]
    assert [turn for _, turn in fed(stream, np.concatenate(parts))] == [DEGRADED, RECOVERED, DEGRADED]
    assert stream.turns == {DEGRADED: 2, RECOVERED: 1}


def test_one_that_stays_twice_as_bad_does_not_recover():
    stream = Stream(Terms(0.05, 1000, 0.01, 10_000))
    assert [turn for _, turn in fed(stream, wrong(0.1, 20_000, 5))] == [DEGRADED]
    chance = sum(
        math.exp(-2 * RECOVERED_WRONG + k * math.log(2 * RECOVERED_WRONG) - math.lgamma(k + 1))
        for k in range(RECOVERED_WRONG + 1)
    )
    assert chance < 1 / 2000


def test_a_configured_rate_counts_from_the_first_label_on():
    stream = Stream(Terms(0.05, 1000, 0.01, 10_000))
    assert stream.rate == 0.05
    assert fed(stream, np.ones(20))[0][1] == DEGRADED


def test_scores_that_are_further_off_than_they_were_are_found_out():
    rng = np.random.default_rng(1)
    stream = Stream(TERMS, scores=True)
    assert fed(stream, np.abs(rng.normal(0, 3, 4000))) == []
    assert stream.far == pytest.approx(3 * 1.645, rel=0.1)
    assert [turn for _, turn in fed(stream, np.abs(rng.normal(0, 6, 2000)))] == [DEGRADED]


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=300), st.integers(0, 300), st.booleans())
def test_a_stream_goes_on_where_it_was(losses, cut, scores):
    terms = Terms(0.0, 50, 0.01, 1000)
    whole, parts = Stream(terms, scores), Stream(terms, scores)
    for at, loss in enumerate(losses):
        if at == cut:
            parts = Stream.from_json(terms, json.loads(json.dumps(parts.to_json())))
        assert whole.take(loss, at) == parts.take(loss, at)
    assert parts.to_json() == whole.to_json()
    assert parts.document() == whole.document()


@pytest.mark.parametrize(("wrong_", "labels"), [(0, 100), (3, 50), (50, 1000), (400, 1000), (99, 100)])
def test_the_highest_rate_that_is_credible_is_the_exact_one(wrong_, labels):
    rate = highest_rate(wrong_, labels, 0.005)
    tail = math.fsum(math.comb(labels, k) * rate**k * (1 - rate) ** (labels - k) for k in range(wrong_ + 1))
    assert tail == pytest.approx(0.005, rel=1e-6)
    assert highest_rate(labels, labels, 0.005) == 1.0


def test_what_replicas_tell_is_taken_in_the_order_in_which_labels_came():
    one, other = [["7", "live", [[0, 1.0], [3, 0.0]]]], [["8", "live", [[1, 0.0]]], ["7", "live", [[2, 1.0]]]]
    scores = [["7", "live", [[4, 2.5]]]]
    assert lost({CLASSES: [*one, *other], SCORES: scores}) == [
        ("7", "live", CLASSES, 1.0),
        ("8", "live", CLASSES, 0.0),
        ("7", "live", CLASSES, 1.0),
        ("7", "live", CLASSES, 0.0),
        ("7", "live", SCORES, 2.5),
    ]


def test_events_are_written_down_and_survive(tmp_path):
    settings = Labels(models={"m": Deciding(error_rate=0.05)})
    losses = Losses(settings, tmp_path)
    events = losses.take("m", [("7", "live", CLASSES, 1.0)] * 30, 1_000_000)
    assert [event["event"] for event in events] == [DEGRADED]
    assert losses.document("m", "7")["state"] == "degraded"
    assert losses.document("m", "8") is None
    again = Losses(settings, tmp_path)
    again.restore(json.loads(json.dumps(losses.to_json())))
    assert again.document("m", "7") == losses.document("m", "7")
    assert [event["event"] for event in again.events.of("m")] == [DEGRADED]
