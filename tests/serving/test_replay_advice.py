"""Is a version called healthy only where something shows it, and unhealthy only where it is worse?"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.replay.advice import LABELS_MIN, ROWS_MIN, Advice, advise, unknown
from serving.replay.report import unrun

DRIFT = {"profile": "h", "thin": False, "drifted": False, "tensors": []}
DRIFTED = {
    "profile": "h",
    "thin": False,
    "drifted": True,
    "tensors": [
        {
            "tensor": "x",
            "of": "input",
            "rows": 500,
            "rows_reference": 2000,
            "features": 16,
            "features_drifted": 3,
            "worst": [{"feature": "4", "psi": 0.4, "psi_corrected": 0.38, "p": 1e-9, "drifted": True}],
        }
    ],
}


def version(number: str, **changes: Any) -> dict[str, Any]:
    made = {**unrun(number, "d", ""), "rows": 500}
    made["latency"] = {"runs": 16, "rows_a_run": 32, "p50_s": 1e-4, "p99_s": 2e-4}
    return {**made, **changes}


def report(seven: dict[str, Any], eight: dict[str, Any], rows: int = 500, **pair: Any) -> dict[str, Any]:
    """Return a report of versions 7, the target, and 8."""
    between = {"one": "7", "other": "8", "decided": rows, "disagreement": 0.04, "flips": [], "outputs": []}
    return {
        "rows": rows,
        "versions": [version("7", **seven), version("8", **eight)],
        "pairs": [{**between, "labelled": None, **pair}],
    }


def labelled(
    both: int, seven: int, eight: int, neither: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    known = both + seven + eight + neither
    ours, theirs = ({"labelled": {"known": known, "right": both + each}} for each in (seven, eight))
    return ours, theirs, {"labelled": {"both": both, "one": seven, "other": eight, "neither": neither}}


def test_a_version_that_merely_runs_is_not_called_healthy():
    advice = advise(report({}, {}), "8", "7")
    assert advice.healthy is None
    assert "neither a profile nor enough labels" in advice.reasons[-1]
    assert advise(report({"drift": {**DRIFT, "thin": True}}, {}), "8", "7").healthy is None


def test_a_version_within_its_own_profile_is_healthy_and_one_beyond_it_a_question_for_labels():
    assert advise(report({"drift": DRIFT}, {}), "8", "7").healthy is True
    advice = advise(report({"drift": DRIFTED}, {}), "8", "7")
    assert advice.healthy is None
    assert any("most of all 4 (PSI 0.38)" in each for each in advice.reasons)
    ours, theirs, pair = labelled(80, 10, 8, 2)
    assert advise(report({**ours, "drift": DRIFTED}, theirs, **pair), "8", "7").healthy is True


def test_what_the_version_that_is_left_does_is_no_fault_of_the_target():
    advice = advise(report({"drift": DRIFT}, {"errors": 500, "odd": 400, "drift": DRIFTED}), "8", "7")
    assert advice.healthy is True
    assert advise(report({"drift": DRIFT}, unrun("8", "d", "it hung")), "8", "7").healthy is True


@pytest.mark.parametrize(
    ("seven", "eight", "says"),
    [
        ({"fault": "it hung"}, {}, "could not be run: it hung"),
        ({"errors": 20, "reasons": ["no"]}, {}, "fails on 20 of 500 inputs, version 8 on 0 (no)"),
        ({"errors": 26}, {"errors": 26}, "fails on 26"),
        ({"odd": 9}, {"odd": 0}, "9 answers of version 7 hold NaN or infinity"),
        ({"latency": {"runs": 9, "rows_a_run": 32, "p50_s": 0.02, "p99_s": 0.02}}, {}, "takes 20 ms a run"),
    ],
)
def test_whatever_is_worse_than_in_the_version_that_is_left_is_unhealthy(seven, eight, says):
    advice = advise(report({"drift": DRIFT, **seven}, {"drift": DRIFT, **eight}), "8", "7")
    assert advice.healthy is False
    assert says in advice.reasons[0]


def test_a_few_errors_more_are_chance_and_microseconds_no_slowness():
    few = {
        "errors": 3,
        "drift": DRIFT,
        "latency": {"runs": 9, "rows_a_run": 32, "p50_s": 5e-4, "p99_s": 1e-3},
    }
    assert advise(report(few, {"errors": 1}), "8", "7").healthy is True


def test_labels_decide_which_version_is_more_often_right():
    for seven, eight, healthy in ((2, 40, False), (40, 2, True), (10, 14, True)):
        ours, theirs, pair = labelled(50, seven, eight, 5)
        advice = advise(report({**ours, "drift": DRIFT}, theirs, **pair), "8", "7")
        assert advice.healthy is healthy
        assert f"version 7 is right on {50 + seven} of {55 + seven + eight}" in " ".join(advice.reasons)
        # Seen from the other side, whichever of the two stands first.
        other = advise(report({**ours, "drift": DRIFT}, {**theirs, "drift": DRIFT}, **pair), "7", "8")
        assert other.healthy is ((eight, seven) != (2, 40))


def test_few_inputs_and_few_labels_say_nothing():
    assert advise(report({"drift": DRIFT}, {}, rows=ROWS_MIN - 1), "8", "7").healthy is None
    ours, theirs, pair = labelled(LABELS_MIN - 6, 0, 5, 0)
    assert advise(report({**ours}, theirs, **pair), "8", "7").healthy is None
    assert advise(report({}, {}), "9", "7") == Advice(None, ("the replay was not through both 9 and 7",))


counts = st.integers(0, 500)
sides = st.fixed_dictionaries(
    {
        "errors": counts,
        "odd": counts,
        "drift": st.sampled_from([None, DRIFT, DRIFTED, {**DRIFT, "thin": True}]),
        "fault": st.sampled_from(["", "it hung"]),
    }
)


@given(sides, sides, counts, counts, counts, st.integers(0, 5000))
def test_advice_is_a_function_of_the_report_and_never_calls_one_healthy_that_is_worse(
    seven, eight, both, ours_alone, theirs_alone, rows
):
    ours, theirs, pair = labelled(both, ours_alone, theirs_alone, 3)
    said = report({**ours, **seven}, {**theirs, **eight}, rows, **pair)
    before = deepcopy(said)
    advice = advise(said, "8", "7")
    assert said == before and advice == advise(before, "8", "7")
    assert advice.reasons and json.dumps(advice.document(), allow_nan=False)
    if advice.healthy:
        assert not seven["fault"] and rows >= ROWS_MIN
        assert seven["errors"] <= 25
        assert theirs_alone < 2 * ours_alone + 20
        # A version whose share of faults only grows is never healthier for it.
        worse = report({**ours, **seven, "fault": "it hung"}, {**theirs, **eight}, rows, **pair)
        assert advise(worse, "8", "7").healthy is False


def test_what_is_not_known_is_said_in_the_same_shape():
    assert unknown("nobody is there").document() == {"healthy": None, "reasons": ["nobody is there"]}
