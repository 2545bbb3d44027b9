"""The parts of a replay against slower and simpler ones: what travels, what is counted, what is known."""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import Refused
from serving import cli_replay
from serving.admin.replay import ReplayDocument
from serving.drift.view import Look, View
from serving.labels.answers import keys_of, row_key
from serving.labels.decision import By, Decision
from serving.labels.label import labels_of, told
from serving.mistake import Mistake
from serving.replay import shown
from serving.replay.bearing import Bearing
from serving.replay.block import Room, blocks
from serving.replay.parcel import DESK_BYTES, Group, Parcel, by_form, opened
from serving.replay.report import Report, unrun
from serving.replay.truths import LABELS_MAX, Truths, table
from serving.replay.verdicts import decided, odd, right, word
from serving.wire import DATATYPES
from tests.asked import batch
from tests.controlling import Administered, Deciding, announced
from tests.counting import looks_of, mlp, profile_of
from tests.slow import slow

KINDS = sorted(DATATYPES)


def array(kind: str, shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 2 if kind == "BOOL" else 100, shape)
    return values.astype(str).astype(object) if kind == "BYTES" else values.astype(DATATYPES[kind].dtype)


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3)), max_size=5),
    st.integers(1, 5),
    st.booleans(),
)
def test_what_is_put_into_a_parcel_comes_out_of_it(tensors, units, whole):
    arrays = {f"t{at}": array(kind, (units, *shape), at) for at, (kind, shape) in enumerate(tensors)}
    group = Group(whole, arrays, [None, "seven", "8", None, "é"][:units])
    parcel = Parcel({"said": ["a", 1]}, [group, group])
    desk, document, groups = opened(parcel.fd)
    assert document == {"said": ["a", 1]}
    desk[0] = 5
    assert (len(desk) * 8, parcel.desk[0]) == (DESK_BYTES, 5)
    assert len(groups) == 2
    for each in groups:
        assert (each.whole, each.labels, each.units) == (whole, group.labels, units)
        assert {name: (a.dtype, a.shape) for name, a in each.arrays.items()} == {
            name: (a.dtype, a.shape) for name, a in arrays.items()
        }
        assert all(np.array_equal(each.arrays[name], a) for name, a in arrays.items())
    del desk, groups, each
    parcel.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(parcel.fd)


@given(
    st.lists(
        st.tuples(st.sampled_from([7, 8]), st.sampled_from([2, 3]), st.booleans(), st.integers(1, 4)),
        min_size=1,
    )
)
def test_inputs_of_one_form_are_joined_in_the_order_of_their_arrival_whoever_answered(asked):
    kept = []
    for version, width, whole, rows in asked:
        x = np.full((rows, width), len(kept), np.float32)
        kept += blocks(version, [batch({"x": x}, () if whole else [1] * rows)], Room(99, 1 << 20))
    groups = by_form(reversed(kept))
    assert len(groups) == len({each.form for each in kept})
    for each in groups:
        assert (np.diff(each.arrived_ns) >= 0).all()
    assert sum(len(each.ids) for each in groups) == sum(each.units for each in kept)
    assert {int(version) for each in groups for version in each.versions} == {
        version for version, *_ in asked
    }


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.booleans())
@slow
def test_drift_is_the_same_however_the_rows_are_cut(sizes, moved):
    version = mlp()
    profile = profile_of(version, *looks_of(version), rows=3000)
    looks = looks_of(version, profile)
    rng = np.random.default_rng(5)
    rows = sum(sizes)
    x = rng.standard_normal((rows, 16)).astype(np.float32) + (2 if moved else 0)
    y = rng.standard_normal((rows, 3)).astype(np.float32)
    y[::7] = np.nan
    whole, cut = (Bearing(profile, looks, 0.1) for _ in range(2))
    whole.add({"x": x, "y": y})
    start = 0
    for size in sizes:
        cut.add({"x": x[start : start + size], "y": y[start : start + size]})
        start += size
    assert whole.document() == cut.document()
    found = {each["tensor"]: each for each in whole.document()["tensors"]}
    assert (found["x"]["rows"], found["x"]["features"], found["x"]["rows_reference"]) == (rows, 16, 3000)
    if rows >= 60:
        assert (found["x"]["features_drifted"] > 8) is moved


def test_every_row_is_in_one_bin_and_a_stream_like_the_reference_has_no_drift():
    version = mlp()
    profile = profile_of(version, *looks_of(version), rows=3000)
    bearing = Bearing(profile, looks_of(version, profile), 0.1)
    x = np.random.default_rng(3).standard_normal((2000, 16)).astype(np.float32)
    x[::10, 0], x[::10, 1], x[::10, 2] = np.nan, np.inf, -np.inf
    bearing.add({"x": x})
    counts = bearing._tensors["x"].counts["values"]
    assert (counts.sum(axis=1) == 2000).all()
    worst = bearing.document()["tensors"][0]["worst"]
    assert {each["feature"] for each in worst if each["drifted"]} == {"0", "1", "2"}
    assert bearing.document()["drifted"]


def test_categories_that_the_reference_does_not_know_are_others():
    look = Look("kind", "input", View.CODES, "INT64", ())
    from serving.drift.build import build

    rows = np.repeat([1, 2, 3], 700)[:, None]
    profile = build("m", "1", "d", [look], [{"kind": rows}], categories_max=2, made_at="", source="")
    bearing = Bearing(profile, [look], 0.1)
    bearing.add({"kind": np.array([1, 1, 2, 9, 9, 9])})
    assert sorted(bearing._tensors["kind"].counts["codes"][0].tolist()) == [1, 2, 3]


def test_labels_are_found_by_the_keys_that_inputs_have():
    document = {
        "labels": [
            {"id": "a", "label": 7},
            {"id": "b", "row": 0, "label": "seven"},
            {"id": "b", "row": 2, "label": 1},
            {"id": "c", "score": 0.5},
            {"id": 'é"', "label": 3},
            {"id": "a", "label": 8},
        ]
    }
    truths = Truths()
    truths.note("m", told(labels_of(document, 0)))
    truths.note("other", told(labels_of({"id": "z", "label": 1}, 0)))
    known = table(truths.of("m"))
    a, b, odd_one = keys_of([b"a", b"b", 'é\\"'.encode()], 3).tolist()
    first, third = row_key(np.array([b, b]), np.array([0, 2])).tolist()
    assert known == {a: "8", b: "seven", first: "seven", third: "1", odd_one: "3"}


def test_labels_are_kept_up_to_a_bound():
    truths = Truths()
    for at in range(12):
        truths.note("m", [[f"{at}-{each}", -1, 1, 0] for each in range(5000)])
    assert LABELS_MAX - 5000 < sum(map(len, truths.of("m"))) <= LABELS_MAX


def decision(by: By, **changes: Any) -> Decision:
    return Decision(
        **{"by": by, "output": 0, "scores": -1, "classes": 0, "names": (), "threshold": 0.5, **changes}
    )


def test_what_a_version_decided_is_what_its_quality_is_counted_by():
    classes, sure = decided(decision(By.SCORE, scores=0), [np.array([0.2, 0.7, np.nan], np.float32)])
    assert (classes.tolist(), sure) == ([0, 1, -1], None)
    scores = np.array([[0.2, 0.8], [0.9, 0.1]], np.float32)
    classes, sure = decided(decision(By.SCORES, scores=0, classes=2), [scores])
    assert classes.tolist() == [1, 0] and sure is not None and sure.tolist() == pytest.approx([0.8, 0.9])
    classes, sure = decided(decision(By.CLASS), [np.array([3, 4])])
    assert (classes.tolist(), sure) == ([3, 4], None)


def test_classes_have_their_names_and_are_right_by_either():
    names = ("good", "bad")
    assert [word(names, each) for each in (0, 1, 2, -1)] == ["good", "bad", "2", "none"]
    assert right(names, 1, "1") and right(names, 1, "bad") and not right(names, 1, "good")


def test_a_row_with_a_number_that_is_none_in_any_output_is_odd_once():
    one = np.array([[1, np.nan], [1, 2], [np.inf, 0]], np.float32)
    other = np.array([[np.nan], [1], [1]], np.float64)
    assert odd([one, other, np.array([1, 2, 3])]).tolist() == [True, False, True]


def document(**changes: Any) -> Report:
    drift = {
        "profile": "h",
        "thin": False,
        "drifted": True,
        "tensors": [
            {"tensor": "x", "of": "input", "rows": 9, "rows_reference": 9, "features": 4, "features_drifted": 1,
             "worst": [{"feature": "3", "psi": 0.5, "psi_corrected": 0.4, "p": 0.0, "drifted": True}]}
        ],
    }  # fmt: skip
    good = {
        **unrun("7", "d", ""),
        "rows": 1000,
        "latency": {"runs": 9, "rows_a_run": 32, "p50_s": 5e-5, "p99_s": 2e-3},
        "confidence": {"mean": 0.9, "p10": 0.5},
        "drift": drift,
        "labelled": {"known": 200, "right": 190},
    }
    pair = {
        "one": "7", "other": "8", "decided": 1000, "disagreement": 0.034,
        "flips": [{"one": "good", "other": "bad\x1b[2J", "rows": 12}],
        "outputs": [{"output": "y", "rows": 9, "misfits": 0, "unequal": None, "mean_difference": 0.1, "max_difference": 0.5}],
        "labelled": {"both": 180, "one": 10, "other": 2, "neither": 8},
    }  # fmt: skip
    return {
        "model": "m", "at": "2026-11-26T14:06:00.000000Z", "replica": "r0", "rows": 1000, "whole_runs": 0,
        "cut": False, "took_s": 1.25, "since": "2026-11-26T14:05:00.000000Z", "until": "2026-11-26T14:05:30.000000Z",
        "answered_by": {"7": 950, "8": 50}, "versions": [good, unrun("8", "d", "it hung")], "pairs": [pair], **changes,
    }  # fmt: skip


def test_a_report_is_written_for_people():
    assert shown.report(document()) == [
        "m: 1,000 inputs from 2026-11-26 14:05:00Z to 2026-11-26 14:05:30Z (answered: 950 by 7, 50 by 8), replayed in r0 in 1.2 s",
        "  version  rows   errors   NaN  median run  p99   confidence  right         drift",
        "  7        1,000  0        0    50 us       2 ms  0.900       95.0% of 200  1 of 4 features",
        "  8        0      not run  0    -           -     -           no labels     no profile",
        "  version 7  drift of input x: 3 (PSI 0.4)",
        "  version 8  it hung",
        "  7 and 8    3.4% decided differently (good -> bad\N{REPLACEMENT CHARACTER}[2J 12)",
        "  7 and 8    right is 7 alone on 10, 8 alone on 2",
        "  7 and 8    y: differs by 0.1, by 0.5 at most",
    ]


class Answering:
    """Says what it is told to, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], int]] = []
        self.refuses = ""

    async def replay(self, model: str, versions: list[str], rows: int = 0) -> dict[str, Any]:
        self.asked.append((model, versions, rows))
        if self.refuses:
            raise Refused(self.refuses)
        return dict(document())


@pytest.fixture
def answering() -> Answering:
    return Answering()


def test_a_replay_is_asked_for_over_http(answering):
    with Administered(Deciding(m="7"), replaying=answering) as served:
        status, said, _ = served.call("POST", "/v2/models/m/replay", {"versions": ["7", "8"], "rows": 5})
        assert (status, answering.asked) == (200, [("m", ["7", "8"], 5)])
        ReplayDocument.model_validate(said, extra="forbid")
        for body, says in (
            ({"versions": []}, "versions"),
            ({"versions": ["x"]}, "x"),
            ({"versions": ["7"], "row": 5}, "did you mean 'rows'?"),
            ({"versions": ["7"], "rows": -1}, "rows"),
        ):
            status, said, _ = served.call("POST", "/v2/models/m/replay", body)
            assert (status, says in said["error"]) == (400, True), said
        assert served.call("POST", "/v2/models/unknown/replay", {"versions": ["7"]})[0] == 404
        answering.refuses = "version 8 of m is loaded nowhere"
        status, said, _ = served.call("POST", "/v2/models/m/replay", {"versions": ["7", "8"]})
        assert (status, said["error"]) == (409, answering.refuses)


def test_the_command_line_prints_it_and_fails_where_a_version_did(answering, tmp_path, capsys):
    said = {
        "model": "m",
        "through": "7,8",
        "rows": None,
        "json": False,
        "admin_url": None,
        "config": None,
        "timeout": 20.0,
    }
    with announced(tmp_path / "private", Deciding(m="7"), replaying=answering):
        assert cli_replay.replay(argparse.Namespace(**said)) == 1
        assert capsys.readouterr().out.splitlines() == shown.report(document())
        assert answering.asked == [("m", ["7", "8"], 0)]
        answering.refuses = "no"
        assert cli_replay.replay(argparse.Namespace(**{**said, "json": True, "rows": 9})) == 1
        assert answering.asked[-1] == ("m", ["7", "8"], 9)
    for text in ("7,7", "a", ""):
        with pytest.raises(Mistake):
            cli_replay.versions(text)
