"""Is training asked for when a model has drifted for long or lost quality, and then not again for a while?"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.alerts.event import Event, Kind
from serving.alerts.posted import drift_signs, of_drift
from serving.alerts.retraining import FILE, Cause, Retraining, Sign
from serving.alerts.settings import Retraining as Settings
from tests.alerting import START_US
from tests.serving.test_alerts_courier import a_folder

S = 1_000_000
SETTINGS = Settings(after_s=60, cool_down_s=600)
ANSWERING = {"m": {"7"}, "n": {"1"}}
DRIFTS = Sign(Cause.DRIFT, "m", "7", "x", {"psi_max": 0.4})
WORSE = Sign(Cause.QUALITY, "m", "7", "wrong", {"labelled": 900})


def looked(retraining: Retraining, at_s: float, drift: list[Sign], quality: list[Sign] | None = None) -> int:
    signs = {Cause.DRIFT: drift} | ({Cause.QUALITY: quality} if quality is not None else {})
    requests = retraining.look(signs, ANSWERING, START_US + int(at_s * S))
    for request in requests:
        assert request.kind is Kind.RETRAIN_REQUESTED
        retraining.made(request)
    return len(requests)


def test_drift_has_to_last(tmp_path: Path):
    retraining = Retraining(SETTINGS, tmp_path)
    assert [looked(retraining, at_s, [DRIFTS]) for at_s in (0, 30, 59, 60, 61)] == [0, 0, 0, 1, 0]


def test_drift_that_is_over_in_between_begins_anew(tmp_path: Path):
    retraining = Retraining(SETTINGS, tmp_path)
    looked(retraining, 0, [DRIFTS])
    looked(retraining, 50, [])
    assert [looked(retraining, at_s, [DRIFTS]) for at_s in (55, 100, 114, 115)] == [0, 0, 0, 1]


def test_lost_quality_counts_at_once(tmp_path: Path):
    assert looked(Retraining(SETTINGS, tmp_path), 0, [], [WORSE]) == 1


def test_the_request_says_by_what(tmp_path: Path):
    retraining = Retraining(SETTINGS, tmp_path)
    looked(retraining, 0, [DRIFTS], [])
    (request,) = retraining.look(
        {Cause.DRIFT: [DRIFTS], Cause.QUALITY: [WORSE]}, ANSWERING, START_US + 100 * S
    )
    assert request.subject == "m"
    assert request.data["causes"] == ["drift", "quality"]
    assert request.data["why"] == (
        "drifting for 60 s and more: x of version 7; quality is lost: wrong of version 7"
    )
    assert request.data["signs"][0]["evidence"] == {"psi_max": 0.4}
    assert request.data["signs"][0]["since"] == "2026-11-25T14:05:00.000000Z"
    assert request.data["not_again_before"] == "2026-11-25T14:16:40.000000Z"


def test_what_does_not_answer_harms_nobody(tmp_path: Path):
    retraining = Retraining(SETTINGS, tmp_path)
    other = Sign(Cause.QUALITY, "m", "9", "wrong")
    unknown = Sign(Cause.QUALITY, "z", "7", "wrong")
    assert looked(retraining, 0, [], [other, unknown]) == 0


def test_one_model_s_cool_down_is_not_another_s(tmp_path: Path):
    retraining = Retraining(SETTINGS, tmp_path)
    assert looked(retraining, 0, [], [WORSE]) == 1
    assert looked(retraining, 1, [], [WORSE, Sign(Cause.QUALITY, "n", "1", "wrong")]) == 1


def test_where_it_is_off_nothing_is_asked_for(tmp_path: Path):
    assert looked(Retraining(Settings(enabled=False), tmp_path), 0, [], [WORSE]) == 0


def test_a_request_that_was_made_just_before_we_ended_is_the_same_when_it_is_made_again(tmp_path: Path):
    retraining = Retraining(SETTINGS, tmp_path)
    looked(retraining, 0, [DRIFTS])
    (request,) = retraining.look({Cause.DRIFT: [DRIFTS]}, ANSWERING, START_US + 70 * S)
    again = Retraining(SETTINGS, tmp_path)  # Before it was told that the request was made.
    (same,) = again.look({Cause.DRIFT: [DRIFTS]}, ANSWERING, START_US + 90 * S)
    assert same.id == request.id
    again.made(same)
    (later,) = again.look({Cause.DRIFT: [DRIFTS]}, ANSWERING, START_US + 700 * S)
    assert later.id != request.id


def test_a_cause_of_which_nothing_is_known_yet_is_not_taken_for_over(tmp_path: Path):
    looked(Retraining(SETTINGS, tmp_path), 0, [DRIFTS])
    again = Retraining(SETTINGS, tmp_path)
    assert again.look({Cause.QUALITY: []}, ANSWERING, START_US + 30 * S) == []
    assert looked(again, 61, [DRIFTS]) == 1


def test_a_clock_that_is_set_back_does_not_keep_it_quiet_for_ever(tmp_path: Path):
    retraining = Retraining(SETTINGS, tmp_path)
    assert looked(retraining, 1e6, [], [WORSE]) == 1
    assert looked(retraining, 0, [], [WORSE]) == 0
    assert looked(retraining, 600, [], [WORSE]) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"m": {"x": 1}}', '{"m": 1}'])
def test_a_file_that_cannot_be_read_is_told_and_does_no_harm(tmp_path: Path, content, caplog):
    (tmp_path / FILE).write_text(content)
    (tmp_path / FILE).chmod(0o600)
    assert looked(Retraining(SETTINGS, tmp_path), 0, [], [WORSE]) == 1
    assert "event=retraining_not_read" in caplog.text


a_look = st.tuples(
    st.integers(0, 400),
    st.sets(st.sampled_from(["x", "y"])),
    st.booleans(),
    st.sampled_from(["", "between", "after"]),
)


@given(st.lists(a_look, max_size=30))
def test_it_is_asked_at_most_once_in_a_cool_down_whenever_we_are_killed(looks):
    with a_folder() as folder:
        retraining, at_s = Retraining(SETTINGS, folder), 0.0
        outbox: list[tuple[float, Event]] = []
        for later_s, tensors, worse, ends in looks:
            at_s += later_s
            signs = {
                Cause.DRIFT: [Sign(Cause.DRIFT, "m", "7", tensor) for tensor in sorted(tensors)],
                Cause.QUALITY: [WORSE] if worse else [],
            }
            for request in retraining.look(signs, ANSWERING, START_US + int(at_s * S)):
                outbox.append((at_s, request))
                if ends != "between":
                    retraining.made(request)
            if ends:
                retraining = Retraining(SETTINGS, folder)
                for _, request in outbox[-1:]:
                    retraining.made(request)
        times = [at_s for at_s, _ in outbox]
        assert all(later - earlier >= 600 for earlier, later in pairwise(times))
        assert len({request.id for _, request in outbox}) == len(outbox)


def test_signs_of_drift_are_taken_from_verdicts_on_live_streams():
    verdict = {
        "model": "m",
        "version": "7",
        "tensor": "x",
        "psi_max": 0.3,
        "evidence": 9.0,
        "features_drifted": 2,
    }
    verdicts = [
        {**verdict, "role": role, "detected": detected}
        for role in ("live", "shadow")
        for detected in (True, False)
    ]
    assert drift_signs(verdicts) == [
        Sign(Cause.DRIFT, "m", "7", "x", {"psi_max": 0.3, "evidence": 9.0, "features_drifted": 2})
    ]


def test_an_event_of_drift_is_told_as_it_was_written_down_and_by_one_id():
    event = {
        "at": "2026-11-25T14:05:00.000000Z",
        "event": "cleared",
        "model": "m",
        "version": "7",
        "tensor": "x",
    }
    told = of_drift(event)
    assert (told.kind, told.subject, told.at_us) == (Kind.DRIFT_CLEARED, "m", START_US)
    assert told.data == event
    assert of_drift(event).id == told.id != of_drift({**event, "tensor": "y"}).id
