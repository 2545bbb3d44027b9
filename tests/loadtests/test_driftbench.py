"""Does the simulation of drift tell a detector that keeps its promises from one that does not?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadtests.driftbench import peers, undrifted
from loadtests.driftbench.contenders import CONTENDERS, Knobbed, Scored
from loadtests.driftbench.delays import find, recurring
from loadtests.driftbench.streams import CHANGES, binned, changed, drawn, known


def test_rows_are_binned_where_their_values_are():
    values = np.random.default_rng(0).standard_normal((40, 3))
    reference = drawn(values)
    for stream, counts in enumerate(reference.counts):
        places = np.searchsorted(reference.edges[:, stream], values[:, stream], side="right")
        assert counts.tolist() == [*np.bincount(places, minlength=17).tolist(), 0]
    assert (reference.counts[:, [0, -2, -1]] == 0).all()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_begins_when_it_is_said_to(name):
    rows = changed(name, np.random.default_rng(1), 200, 2, -100)
    same = np.random.default_rng(1).standard_normal((200, 2))
    assert (rows[:100] == same[:100]).all()
    assert (rows[101:] != same[101:]).all()


def test_the_bimodal_stream_keeps_its_mean_and_deviation():
    rows = changed("bimodal, same mean and sd", np.random.default_rng(1), 100_000, 1, 0)
    assert rows.mean() == pytest.approx(0, abs=0.02)
    assert rows.std() == pytest.approx(1, abs=0.02)


def test_a_stream_that_does_drift_is_no_undrifted_one():
    calls = iter(range(10_000))

    def draw(rng, rows, streams):
        return rng.standard_normal((rows, streams)) + (next(calls) > 20)

    alarms = undrifted.watch(undrifted.Undrifted("", 2000, draw), streams=20, rows=5000, seed=0)
    assert alarms.whole.all()
    assert alarms.evidence.all()


def test_features_of_a_stream_are_judged_together():
    case = undrifted.Undrifted("", 2000, undrifted.alike(4, 0.5), features=4)
    alarms = undrifted.watch(case, streams=30, rows=3000, seed=0)
    assert alarms.whole.shape == (30,)
    assert alarms.whole.mean() <= 0.1


def test_bets_that_learn_alone_are_later_where_the_mean_shifts():
    alone, all_ = (
        np.median(find("mean +0.5 sd", known(40), block=50, seed=0, learners_only=only).evidence)
        for only in (True, False)
    )
    assert all_ < alone


def test_drift_that_recurs_is_told_twice():
    rows = {row.name: row for row in recurring(streams=30, seed=0)}
    told = [row.value for name, row in rows.items() if row.unit == "share"]
    assert len(told) == 5
    assert min(told) >= 0.9


@pytest.mark.parametrize("peer", CONTENDERS, ids=lambda peer: peer.name)
def test_a_peer_that_is_not_installed_says_how_to_have_it(peer, root):
    (row,) = peers.theirs(peer, peers.Streams(0, 1, 1), {})
    assert row.value is None
    assert "requirements/peers.txt" in (row.note or "")
    pinned = (root / "requirements" / "peers.txt").read_text()
    assert f"\n{peer.package.replace('_', '-')}==" in pinned


def largest(_reference, stream):
    yield from enumerate(stream.tolist(), start=1)


class Above:
    def __init__(self, bar) -> None:
        self.bar, self.drift_detected = bar, False

    def update(self, value):
        self.drift_detected = value > self.bar


@pytest.mark.parametrize(
    "peer",
    [
        Scored("", "", largest, 0.0, (0, 0), None),
        Knobbed("", "", Above, 0.0, (-10.0, 10.0), (0, 0)),
    ],
)
def test_a_peer_is_held_to_the_rate(peer):
    rng = np.random.default_rng(0)
    streams = rng.standard_normal((50, 300))
    bar = peer.calibrated(0.02, streams, streams)
    assert sum(math.isfinite(peer.first(bar, stream, stream)) for stream in streams.T) in {5, 6}


def test_the_soonest_peer_is_the_one_to_beat():
    change = next(iter(CHANGES))
    us = peers.OURS.format(peers.BLOCKS[0])
    known = {
        us: [30.0, 30.0, 30.0, 90.0, 90.0, 90.0],
        "slow": [60.0] * 6,
        "soon": [20.0] * 3,
        "never": [np.inf] * 6,
    }
    (row,) = peers.best({(name, change): np.array(delays) for name, delays in known.items()})
    assert (row.value, row.against, row.missed) == (1.5, "soon", True)


def test_a_delay_counts_from_the_change():
    told = np.zeros((100, 3), np.bool_)
    told[65:, 0] = told[10:, 1] = True
    first = peers.delay(told, 50)
    assert first[0] == 66 * 50 - 3000
    assert math.isnan(first[1])
    assert first[2] == math.inf


def test_bins_hold_every_row():
    values = np.array([[np.nan], [np.inf], [-np.inf], [0.0]])
    assert binned(values, drawn(np.arange(20.0)[:, None]).edges).sum() == 3 + 1
