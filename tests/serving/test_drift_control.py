"""What the control makes of counts that replicas tell: sums that are exact, verdicts, and what survives."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.clock import parse_utc
from serving.config import Drift as Settings
from serving.drift import drift as drift_module
from serving.drift.drift import SNAPSHOT_S, Drift
from serving.drift.reading import Verdict
from serving.drift.sources import OVER_MAX, Sources
from serving.drift.store import Store
from serving.drift.stream import Stream
from tests.counted import Counted, codes_profile, normal, profile, tally

START_US = 1_795_615_500_000_000
PROFILE = profile()
KEY = ("m", "7", "live", "x")
SETTINGS = Settings()
REPLICAS = ("r1", "r2")


@contextmanager
def a_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="drift-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def begun(folder: Path, now_us: int = START_US) -> Drift:
    drift = Drift(Store(folder), SETTINGS, 1.0, now_us)
    if not drift.profiles:
        drift.put(PROFILE, START_US)
    return drift


def stream_of(drift: Drift) -> Stream:
    [stream] = drift.streams("m")
    return stream


class Life:
    """A control and replicas, and beside them what the control has to have counted, row by row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_us = START_US
        self.drift = begun(folder)
        self.numbers = 0
        self.replicas: dict[str, Counted] = {}
        self.rows: dict[int, list[np.ndarray]] = {}
        self.known: dict[int, int] = {}
        self.saved: dict[int, int] = {}
        self.old_tellings: list[tuple[str, Any, int]] = []

    def counted(self, replica: str) -> Counted:
        if replica not in self.replicas:
            self.numbers += 1
            self.replicas[replica] = Counted(self.numbers, PROFILE)
            self.rows[self.numbers] = []
        return self.replicas[replica]

    def do(self, step: tuple[str, str, int]) -> None:
        what, replica, amount = step
        counted = self.counted(replica)
        match what:
            case "count":
                rows = normal(amount, seed=self.now_us % 1000)
                rows[:: max(amount, 1)] = (np.nan, np.inf, -np.inf)
                self.rows[counted.number].append(rows)
                counted.count(rows)
            case "tell":
                told = counted.told(replica)
                size = sum(map(len, self.rows[counted.number]))
                self.old_tellings.append((replica, told, size))
                self.hear(told, counted.number, size)
            case "again" if self.old_tellings:
                replica, told, size = self.old_tellings[amount % len(self.old_tellings)]
                [(_, document)] = told.values()
                self.hear(told, document["stream"], size)
            case "die":
                del self.replicas[replica]
            case "save":
                self.drift.save(self.now_us, at_once=True)
                self.saved = dict(self.known)
            case "kill the control":
                self.drift = begun(self.folder, self.now_us)
                self.known = dict(self.saved)
        self.now_us += 1_000_000

    def hear(self, told: Any, number: int, size: int) -> None:
        self.drift.note(told, self.now_us)
        self.drift.evaluate(self.replicas, self.now_us)
        self.known[number] = max(self.known.get(number, 0), size)


life_steps = st.lists(
    st.tuples(
        st.sampled_from(["count", "count", "tell", "tell", "again", "die", "save", "kill the control"]),
        st.sampled_from(REPLICAS),
        st.integers(0, 40),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=40)
@given(life_steps)
def test_counts_are_bitwise_those_of_one_replica_however_the_stream_was_cut(steps):
    """Over replicas that die and return, tellings that repeat or come late, and controls that are killed."""
    with a_folder() as folder:
        life = Life(folder)
        for step in steps:
            life.do(step)
        empty = np.zeros((0, 3), np.float32)
        rows = np.concatenate(
            [empty, *(np.concatenate([empty, *life.rows[n]])[:size] for n, size in life.known.items())]
        )
        whole = tally(PROFILE.tensors["x"].panels["values"], rows)
        if not life.known:
            assert life.drift.streams("m") == []
            return
        stream = stream_of(life.drift)
        assert stream.sources.rows == len(rows)
        total = stream.sources.total()["values"]
        assert total.n == whole.n
        np.testing.assert_array_equal(total.counts, whole.counts)
        np.testing.assert_allclose(total.sums, whole.sums, rtol=1e-12, atol=1e-9)
        np.testing.assert_array_equal(total.extremes, whole.extremes)
        case = stream.cases["values"]
        window = case.sliding.total(life.now_us / 1e6)
        assert window.n == whole.n
        np.testing.assert_array_equal(window.counts, case.span(whole).counts)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=OVER_MAX + 1, max_size=OVER_MAX + 20), st.integers(0, 100))
def test_streams_that_are_over_are_added_up_and_none_is_counted_twice(sizes, back):
    sources, rows = Sources(), 0
    replicas = [Counted(number, PROFILE) for number in range(len(sizes))]
    for counted, size in zip(replicas, sizes, strict=True):
        counted.count(normal(size))
        sources.take(f"r{counted.number}", counted.tell())
        rows += size
    sources.tidy(connected=())
    assert len(sources._sources) <= OVER_MAX
    old = replicas[back % len(replicas)]
    assert sources.take(f"r{old.number}", old.tell()) == {}
    assert sources.rows == sources.total()["values"].n == rows
    again = Sources.from_json(sources.to_json())
    assert again.rows == rows
    assert again.total()["values"] == sources.total()["values"]


def test_streams_without_a_row_are_added_up_too_when_others_have_followed_them(tmp_path):
    drift = begun(tmp_path)
    for number in range(3 * OVER_MAX):
        drift.note(Counted(number, PROFILE).told("r1"), START_US)
    drift.evaluate(["r1"], START_US)
    assert len(stream_of(drift).sources._sources) == OVER_MAX + 1


def test_a_stream_that_cannot_be_tidied_keeps_no_other_from_it(tmp_path, caplog):
    drift = begun(tmp_path)
    for number in range(3 * OVER_MAX):
        drift.note(Counted(number, PROFILE).told("r1"), START_US)
    good, bad = stream_of(drift), SimpleNamespace(key="bad", is_waiting=False, heard_us=START_US)
    drift._streams = {("m", "1", "live", "x"): bad, KEY: good}  # It has nothing to tidy with.
    drift._tidy(["r1"])
    assert "event=drift_not_tidied stream=bad" in caplog.text
    assert len(good.sources._sources) == OVER_MAX + 1


def test_what_is_dropped_is_told_though_nothing_new_was_counted():
    sources, counted = Sources(), Counted(1, PROFILE)
    counted.count(normal(5))
    sources.take("r1", counted.tell())
    counted.dropped = {"full": 7}
    assert sources.take("r1", counted.tell()) == {}
    assert (sources.rows, sources.dropped) == (5, 7)


def fed(
    drift: Drift, counted: Counted, rows: np.ndarray, at_us: int, block: int = 100, pause_us: int = 1_000_000
):
    """Tell rows block by block, a second each; return what happened and the time after."""
    happened = []
    for begin in range(0, len(rows), block):
        at_us += pause_us
        counted.count(rows[begin : begin + block])
        drift.note(counted.told("r1"), at_us)
        happened += drift.evaluate(["r1"], at_us)
    return happened, at_us


def test_a_shift_is_detected_named_kept_and_cleared_when_the_latest_rows_are_as_before(tmp_path):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    happened, at_us = fed(drift, counted, normal(20_000, 2), START_US)
    assert (happened, stream_of(drift).word) == ([], "no drift")
    shifted = normal(20_000, 3)
    shifted[:, 1] += 1
    happened, at_us = fed(drift, counted, shifted, at_us)
    [event] = happened
    assert (event["event"], event["features"], event["n"] < 20_000 + 1_000) == ("detected", ["b"], True)
    assert event["psi"] > SETTINGS.psi_min
    stream = stream_of(drift)
    assert stream.word == "drift"
    assert stream.judge is not None
    assert stream.judge.named.tolist() == [False, True, False]
    happened, at_us = fed(drift, counted, normal(80_000, 4), at_us)
    [event] = happened
    assert (event["event"], event["features"]) == ("cleared", ["b"])
    assert stream.word == "no drift"
    assert stream.cases["values"].detector.log_e[1] < 1


def test_drift_that_recurs_is_detected_again(tmp_path):
    drift, counted, at_us, turns = begun(tmp_path), Counted(1, PROFILE), START_US, []
    for round_ in range(3):
        for shift in (0.0, 1.0):
            happened, at_us = fed(drift, counted, normal(60_000, round_, shift), at_us, block=120)
            turns += [event["event"] for event in happened]
    assert turns == ["detected", "cleared"] * 2 + ["detected"]


def test_an_alarm_stays_for_five_minutes_and_a_thousand_rows_however_good_the_rows_before_it_were(tmp_path):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    _, at_us = fed(drift, counted, normal(50_000, 2), START_US, block=500)
    [event], at_us = fed(drift, counted, normal(3_000, 3, 1.0), at_us)
    began_us = parse_utc(event["at"])
    happened, at_us = fed(drift, counted, normal(40_000, 5), at_us, block=500)
    assert (event["event"], happened) == ("detected", [])
    happened, _ = fed(drift, counted, normal(200_000, 6), at_us, block=500)
    [cleared] = happened
    assert (cleared["event"], parse_utc(cleared["at"]) - began_us >= 300e6) == ("cleared", True)


def test_a_feature_is_named_no_more_once_rows_from_after_it_was_named_are_as_before_though_others_drift(
    tmp_path,
):
    drift, counted, at_us, named = begun(tmp_path), Counted(1, PROFILE), START_US, []

    def feed(seconds: int, seed: int, *, b: float, c: float) -> None:
        nonlocal at_us
        for second in range(0, seconds, 20):
            rows = normal(20 * 60, seed + second)
            rows[:, 1] += b
            rows[:, 2] += c
            happened, at_us = fed(drift, counted, rows, at_us, block=60)
            turns.extend(event["event"] for event in happened)
            judge = stream_of(drift).judge
            assert judge is not None
            named.append("".join(np.array(["a", "b", "c"])[judge.named].tolist()))

    turns: list[str] = []
    feed(400, 1000, b=1, c=0)
    feed(40, 2000, b=1, c=1)
    feed(500, 3000, b=1, c=0)
    assert turns == ["detected"]
    assert named[0] == named[19] == "b"
    with_c = [number for number, each in enumerate(named) if each == "bc"]
    assert with_c == list(range(with_c[0], with_c[-1] + 1))
    assert with_c[0] in (20, 21)
    assert 300 <= 20 * len(with_c) <= 420
    assert named[-1] == "b"


def test_a_change_too_small_to_matter_raises_nothing_however_certain_it_is(tmp_path):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    happened, _ = fed(drift, counted, normal(400_000, 2, 0.2), START_US, block=2_000)
    stream = stream_of(drift)
    assert happened == []
    assert stream.judge is not None
    assert stream.judge.evidence > drift.bar("m", drift.evaluated_us).evidence
    assert 0 < float(stream.judge.psi().max()) < SETTINGS.psi_min


def test_a_thin_profile_shows_distances_and_raises_nothing(tmp_path):
    thin = profile(normal(500, 1))
    drift, counted = begun(tmp_path), Counted(1, thin)
    drift.put(thin, START_US)
    happened, _ = fed(drift, counted, normal(20_000, 2, 2.0), START_US)
    assert (happened, stream_of(drift).word) == ([], "thin profile")
    assert float(stream_of(drift).cases["values"].psi_changed().min()) > SETTINGS.psi_min


def test_categories_that_are_dealt_otherwise_are_detected(tmp_path):
    draw = np.random.default_rng(1)
    reference = codes_profile(draw.choice(4, (20_000, 1), p=[0.4, 0.3, 0.2, 0.1]).astype(np.int64))
    drift, counted = begun(tmp_path), Counted(1, reference)
    drift.put(reference, START_US)
    usual = draw.choice(4, (20_000, 1), p=[0.4, 0.3, 0.2, 0.1]).astype(np.int64)
    happened, at_us = fed(drift, counted, usual, START_US)
    assert happened == []
    [event], _ = fed(drift, counted, draw.choice(5, (5_000, 1)).astype(np.int64), at_us)
    assert (event["event"], event["features"]) == ("detected", ["a"])


def test_evidence_goes_on_after_the_control_was_killed_where_its_snapshot_was(tmp_path):
    """The same rows, with and without a death in between: the same detector, bit by bit."""
    with a_folder() as other:
        whole, killed = begun(tmp_path), begun(other)
        one, two = Counted(1, PROFILE), Counted(1, PROFILE)
        _, at_us = fed(whole, one, normal(5_000, 2, 0.1), START_US)
        fed(killed, two, normal(5_000, 2, 0.1), START_US)
        killed.save(at_us, at_once=True)
        killed = begun(other, at_us)
        fed(whole, one, normal(5_000, 3, 0.3), at_us)
        fed(killed, two, normal(5_000, 3, 0.3), at_us)
        mine, theirs = (stream_of(each).cases["values"].detector.arrays() for each in (whole, killed))
        for name, array in mine.items():
            np.testing.assert_array_equal(array, theirs[name])
        assert stream_of(whole).word == stream_of(killed).word


def test_an_alarm_outlives_a_control_that_is_killed_and_is_told_once(tmp_path):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    [event], at_us = fed(drift, counted, normal(3_000, 3, 1.0), START_US)
    drift.save(at_us, at_once=True)
    drift = begun(tmp_path, at_us)
    assert stream_of(drift).word == "drift"
    happened, _ = fed(drift, counted, normal(3_000, 3, 1.0), at_us)
    assert happened == []
    assert list(drift.events.of("m")) == [event]


def test_snapshots_are_written_each_minute_and_only_of_what_changed(tmp_path):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    fed(drift, counted, normal(100, 3), START_US)
    drift.save(START_US + int((SNAPSHOT_S - 1) * 1e6))
    assert list(drift.store.snapshots()) == []
    drift.save(START_US + int(SNAPSHOT_S * 1e6))
    [(path, _)] = drift.store.snapshots()
    path.unlink()
    drift.save(START_US + int(3 * SNAPSHOT_S * 1e6))
    assert list(drift.store.snapshots()) == []


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", bytes(1000)])
def test_a_snapshot_that_is_torn_is_left_out_and_the_rest_goes_on(tmp_path, content):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    _, at_us = fed(drift, counted, normal(100, 3), START_US)
    drift.save(at_us, at_once=True)
    (drift.store.folder / "streams" / "0.npz").touch(mode=0o600)
    (drift.store.folder / "streams" / "0.npz").write_bytes(content)
    assert stream_of(begun(tmp_path, at_us)).sources.rows == 100


def test_a_new_profile_begins_the_streams_of_its_version_anew_and_what_is_told_by_the_old_one_is_left_out(
    tmp_path,
):
    drift, old = begun(tmp_path), Counted(1, PROFILE)
    _, at_us = fed(drift, old, normal(1_000, 3), START_US)
    drift.save(at_us, at_once=True)
    newer = profile(normal(5_000, 9))
    drift.put(newer, START_US)
    assert (stream_of(drift).sources.rows, stream_of(drift).word) == (0, "no rows")
    fed(drift, old, normal(1_000, 3), at_us)
    assert stream_of(drift).sources.rows == 0
    new = Counted(2, newer)
    fed(drift, new, normal(700, 3), at_us)
    assert stream_of(drift).sources.rows == 700
    drift = Drift(Store(tmp_path), SETTINGS, 1.0, at_us)
    assert drift.profiles["m", "7"].hash == newer.hash
    drift.drop("m", "7", START_US)
    assert Drift(Store(tmp_path), SETTINGS, 1.0, at_us).profiles == {}


def test_a_profile_of_another_file_does_not_count(tmp_path):
    drift = Drift(Store(tmp_path), SETTINGS, 1.0, START_US)
    drift.put(profile(digest="abc"), START_US)
    drift.digests = {("m", "7"): "abc"}
    assert drift.counting("m", "7") is not None
    drift.digests = {("m", "7"): "def"}
    assert drift.counting("m", "7") is None


def test_false_alarms_are_shared_by_the_streams_of_a_model_that_have_rows(tmp_path):
    drift = begun(tmp_path)
    alone = drift.bar("m", START_US)
    for number, role in enumerate(("live", "shadow")):
        counted = Counted(number, PROFILE)
        counted.count(normal(10))
        drift.note(counted.told("r1", role=role), START_US)
    assert drift.bar("m", START_US).alpha == alone.alpha / 2
    assert drift.bar("m", START_US + int(2e6 * SETTINGS.horizon_s)).alpha == alone.alpha


@pytest.mark.parametrize(
    "spoil", [lambda d: d.pop("panels"), lambda d: d.update(look={}), lambda d: d.update(rows=None)]
)
def test_what_a_replica_says_that_makes_no_sense_is_left_out_and_the_rest_counts(tmp_path, spoil):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    counted.count(normal(10))
    good, bad = counted.told("r1"), counted.told("r2")
    for _, document in bad.values():
        spoil(document)
    drift.note({**bad, **good}, START_US)
    assert stream_of(drift).sources.rows == 10


def test_a_stream_that_cannot_be_judged_keeps_no_other_from_it(tmp_path, monkeypatch):
    drift = begun(tmp_path)
    for number, role in enumerate(("live", "shadow")):
        counted = Counted(number, PROFILE)
        counted.count(normal(10))
        drift.note(counted.told("r1", role=role), START_US)
    [first, second] = drift.streams("m")
    monkeypatch.setattr(first, "evaluate", lambda *_: 1 / 0)
    drift.evaluate(["r1"], START_US)
    assert not second.is_waiting


def test_a_clock_that_is_set_back_keeps_no_snapshot_from_being_written(tmp_path):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    _, at_us = fed(drift, counted, normal(100, 3), START_US)
    drift.save(at_us - 86_400_000_000)
    assert len(list(drift.store.snapshots())) == 1


def test_what_replicas_are_told_of_a_stream_is_understood_there(tmp_path):
    drift, counted = begun(tmp_path), Counted(1, PROFILE)
    [event], _ = fed(drift, counted, normal(2_000, 3, 1.0), START_US)
    [said] = json.loads(json.dumps(drift.verdicts(), allow_nan=False))
    verdict = Verdict.from_json(said)
    assert (verdict.detected, verdict.features_drifted) == (True, 3)
    assert verdict.psi_max == max(psi for psi, _ in verdict.features.values())
    assert verdict.evidence > 7
    assert verdict.events == {"detected": 1, "cleared": 0}
    assert event["psi"] > SETTINGS.psi_min


def test_the_streams_not_heard_of_for_the_longest_time_are_forgotten_with_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(drift_module, "STREAMS_MAX", 2)
    drift = begun(tmp_path)
    for number in range(4):
        counted = Counted(number, PROFILE)
        counted.count(normal(10))
        [(at, (key, document))] = counted.told("r1").items()
        drift.note({at: (("m", "7", "live", f"x{number}"), document)}, START_US + number)
        drift.evaluate(["r1"], START_US + number)
        drift.save(START_US, at_once=True)
        assert key == KEY
    assert [stream.key[3] for stream in drift.streams("m")] == ["x2", "x3"]
    assert len(list(drift.store.snapshots())) == 2
