"""Which events does an entry of the journal stand for, and how are they written?"""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import Remove, SetAlias, SetRollout, SetRoute
from router.history import History
from router.plan import AbortPolicy, Pause, Plan, Promote, SetWeight
from router.rollout import Move, Rollout, Verdict, Word, abort, advance, begin, pause, promote, resume
from router.table import everything_to
from router.verb import Verb
from serving.alerts.entries import Before, events, told
from serving.alerts.event import FAMILIES, USUAL, Event, Kind, kinds, parse
from serving.clock import parse_utc
from tests.alerting import START_US, added, moved, split

PLAN = Plan("canary", "digits", "8", (SetWeight(500), Pause(), Promote()), watch_s=3600)
FAILED = Verdict(Word.FAILED, "8 is wrong more often", {"wrong": {"7": [3, 900], "8": [40, 880]}})


class Story:
    """A model with a rollout, and what others are told of each entry."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.history = History()
        self.plan = plan
        self.does(SetRoute(Verb.ADOPT, "digits", everything_to("7")))

    def does(self, change: object) -> list[Event]:
        entry = added(self.history, change)
        return told(entry, self.history.at(entry.revision - 1))

    def begins(self) -> list[Event]:
        route = self.history.table.routes["digits"]
        rollout = begin(self.plan, route, self.history.revision + 1, START_US, None)
        return self.moves(Move(rollout, None, Verb.ROLLOUT, "start"))

    def moves(self, move: Move | None) -> list[Event]:
        assert move is not None
        return self.does(SetRollout(move.verb, "digits", move.rollout, move.route))

    def advances(self, verdict: Verdict | None = None) -> list[Event]:
        return self.moves(advance(self.rollout, verdict, START_US))

    @property
    def rollout(self) -> Rollout:
        return self.history.table.rollouts["digits"]


def names(found: list[Event]) -> list[str]:
    return [str(each.kind) for each in found]


def test_a_rollout_is_told_from_its_start_to_its_promotion():
    story = Story()
    assert names(story.begins()) == ["rollout.started"]
    assert names(story.advances()) == ["rollout.step"]
    assert names(story.advances()) == ["rollout.paused"]
    assert names(story.moves(resume(story.rollout, START_US))) == ["rollout.resumed"]
    assert names(story.advances()) == ["rollout.promoted"]


def test_a_rollout_that_fails_is_told_as_aborted_and_as_a_rollback_with_every_number():
    story = Story()
    story.begins()
    story.advances()
    aborted, back = story.advances(FAILED)
    assert names([aborted, back]) == ["rollout.aborted", "rollback.completed"]
    assert aborted.id != back.id
    assert aborted.data == back.data
    assert back.data["verdict"] == FAILED.document
    assert back.data["route"]["before"]["words"] == "8=5% 7=95%"
    assert back.data["route"]["after"]["words"] == "7=100%"
    assert back.data["undo"] == "turnout rollback digits --to-revision 3"
    assert (back.data["revision"], back.data["by"], back.data["verb"]) == (4, "ann", "rollback")
    assert "verdict" not in back.data["rollout"]


def test_a_version_that_turns_bad_after_its_promotion_is_told_as_rolled_back():
    story = Story()
    story.begins()
    story.moves(promote(story.rollout, START_US, full=True))
    assert names(story.advances(FAILED)) == ["rollout.aborted", "rollback.completed"]


def test_a_rollout_that_freezes_is_told_as_aborted_and_moves_nothing():
    story = Story(replace(PLAN, abort=AbortPolicy.FREEZE))
    story.begins()
    story.advances()
    (aborted,) = story.advances(FAILED)
    assert aborted.kind is Kind.ROLLOUT_ABORTED
    assert aborted.data["route"]["before"] == aborted.data["route"]["after"]
    assert aborted.data["undo"] == ""


def test_a_rollout_that_a_person_ends_or_begins_anew_is_told():
    story = Story()
    story.begins()
    assert names(story.moves(pause(story.rollout, START_US))) == ["rollout.paused"]
    assert names(story.moves(abort(story.rollout, START_US))) == ["rollout.aborted", "rollback.completed"]
    assert names(story.begins()) == ["rollout.started"]


@pytest.mark.parametrize("ends", [False, True])
def test_a_change_by_hand_supersedes_a_rollout_that_is_under_way_and_no_other(ends):
    story = Story()
    story.begins()
    story.advances()
    if ends:
        story.moves(abort(story.rollout, START_US))
    found = story.does(SetRoute(Verb.ROLLBACK, "digits", everything_to("6")))
    assert names(found) == ["rollback.completed"] + ["rollout.superseded"] * (not ends)
    assert ("rollout" in found[0].data) is not ends
    assert names(story.does(SetRoute(Verb.SPLIT, "digits", split(1)))) == ["traffic.changed"]


def test_changes_by_hand_are_told_with_the_command_that_takes_them_back():
    story = Story()
    (change,) = story.does(SetRoute(Verb.SPLIT, "digits", split(500)))
    assert (change.kind, change.subject) == (Kind.TRAFFIC_CHANGED, "digits")
    assert change.data["undo"] == "turnout rollback digits --to-revision 1"
    (alias,) = story.does(SetAlias("digits", "champion", "7"))
    assert alias.data["alias"] == {"name": "champion", "version": "7"}
    assert alias.data["undo"] == "turnout alias digits champion="
    assert alias.data["route"]["before"] == alias.data["route"]["after"]
    (gone,) = story.does(Remove("digits"))
    assert gone.data["route"]["after"] is None
    assert gone.data["verb"] == "remove"


def test_an_entry_is_told_in_the_same_words_and_by_the_same_id_each_time():
    story = Story()
    moved(story.history, 5)
    for entry in story.history:
        before = story.history.at(entry.revision - 1)
        assert told(entry, before) == told(entry, before)
    ids = [each.id for entry in story.history for each in told(entry, story.history.at(entry.revision - 1))]
    assert len(set(ids)) == len(ids) == 6


def test_an_entry_is_understood_from_its_plain_document_alone():
    document = {
        "revision": 9,
        "term": 1,
        "at_us": START_US,
        "by": "turnout",
        "why": "it is worse",
        "change": {
            "set": "rollout",
            "verb": "rollback",
            "model": "m",
            "route": {"shares": [["7", 10_000]], "shadows": [], "sticky": None, "pinned": ""},
            "rollout": {"phase": "Degraded", "reason": "AnalysisFailed", "step": 2, "verdict": {"n": 7}},
        },
    }
    found = events(document, "f" * 64, Before())
    assert names(found) == ["rollout.aborted", "rollback.completed"]
    assert found[0].data["verdict"] == {"n": 7}


def test_an_event_is_written_as_cloudevents_has_it():
    event = Event(Kind.DRIFT_DETECTED, "abc", "digits", START_US, {"psi": 0.5, "nothing": float("nan")})
    document = json.loads(event.body("/turnout", 65536))
    assert document == {
        "specversion": "1.0",
        "id": "abc",
        "source": "/turnout",
        "type": "dev.turnout.drift.detected",
        "subject": "digits",
        "time": "2026-11-25T14:05:00.000000Z",
        "datacontenttype": "application/json",
        "data": {"psi": 0.5, "nothing": None},
    }
    assert parse_utc(document["time"]) == START_US


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(["verdict", "rollout", "evidence", "by"]), plain), st.integers(300, 900)
)
def test_an_event_is_never_larger_than_it_may_be_and_says_what_is_left_out(data, bytes_max):
    event = Event(Kind.ROLLOUT_ABORTED, "a" * 32, "digits", START_US, data)
    for written in (event.body("/turnout", bytes_max), event.line(bytes_max)):
        assert len(written) <= bytes_max
        sent = json.loads(written)["data"]
        assert sent.keys() - {"left_out"} <= data.keys()
        assert (sent.keys() == data.keys()) or sent["left_out"]


@given(st.dictionaries(st.text(max_size=5), plain, max_size=3))
def test_an_event_that_is_written_down_is_read_again(data):
    event = Event(Kind.QUALITY_DEGRADED, "abc", "digits", START_US, data)
    again = parse(orjson.loads(event.line(1 << 20)))
    assert again.line(1 << 20) == event.line(1 << 20)


def test_families_mean_all_of_theirs_and_what_is_unknown_is_answered_with_the_nearest():
    rollback = {Kind.ROLLBACK_COMPLETED, Kind.ROLLBACK_ADVISED}
    assert kinds(["rollback.*", "drift.cleared"]) == {*rollback, Kind.DRIFT_CLEARED}
    assert kinds(["*"]) == kinds(FAMILIES) == set(Kind)
    assert kinds(USUAL) == set(Kind) - {Kind.TRAFFIC_CHANGED}
    with pytest.raises(ValueError, match="'rolout.*' is no event; did you mean 'rollout.*'?"):
        kinds(["rolout.*"])
    with pytest.raises(ValueError, match="known families: rollout.*, rollback.*"):
        kinds(["zzz"])
