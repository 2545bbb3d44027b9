"""Do labels reach the replica that answered, and is nothing acknowledged that is not counted?"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.change import Refused
from serving.labels import feedback as module
from serving.labels.joining import LIVE, Outcome
from serving.labels.label import BadLabel, labels_of
from tests.feeding import Feeding
from tests.labelling import NOW_US, label
from tests.talking import eventually

IDS = [f"id-{number}" for number in range(60)]


def counts(feeding: Feeding, version: str = "7") -> tuple[int, int, int]:
    """Return answers, labels and wrong ones as people see them."""
    said = feeding.do(feeding.feedback.report("m", version))
    each = next(one for one in said["versions"] if one["role"] == LIVE)
    accuracy = each["accuracy"] or {"of": 0, "count": 0}
    return each["answered"], each["labelled"], accuracy["of"] - accuracy["count"]


def test_a_label_finds_the_replica_that_answered(tmp_path):
    with Feeding(tmp_path) as feeding:
        one, other = feeding.replica("r0"), feeding.replica("r1")
        feeding.call(one.answer, 7, IDS[:20], [1] * 20)
        feeding.call(other.answer, 7, IDS[20:50], [2] * 30)
        given_ = feeding.do(feeding.feedback.give("m", [label(id_, 1) for id_ in IDS]))
        assert given_.counts == {
            Outcome.JOINED: 50,
            Outcome.REPEATED: 0,
            Outcome.MISFIT: 0,
            Outcome.UNMATCHED: 10,
        }
        assert given_.missing == ()
        assert counts(feeding) == (50, 50, 30)
        again = feeding.do(feeding.feedback.give("m", [label(id_, 1) for id_ in IDS[:50]]))
        assert again.counts[Outcome.REPEATED] == 50
        assert counts(feeding) == (50, 50, 30)


def test_what_was_acknowledged_stays_counted_when_the_replica_dies(tmp_path):
    with Feeding(tmp_path) as feeding:
        one, other = feeding.replica("r0"), feeding.replica("r1")
        feeding.call(one.answer, 7, IDS[:30], [1] * 30)
        feeding.call(other.answer, 7, IDS[30:], [1] * 30)
        feeding.do(feeding.feedback.give("m", [label(id_, 1) for id_ in IDS[:20]]))
        feeding.call(one.die)
        assert counts(feeding) == (60, 20, 0)
        given_ = feeding.do(feeding.feedback.give("m", [label(id_, 1) for id_ in IDS]))
        assert (given_.counts[Outcome.JOINED], given_.counts[Outcome.UNMATCHED]) == (30, 30)
        assert counts(feeding) == (60, 50, 0)


def test_a_replica_that_says_nothing_is_named_and_the_others_count(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENT_S", 0.2)
    with Feeding(tmp_path) as feeding:
        one, deaf = feeding.replica("r0"), feeding.replica("deaf")
        feeding.call(one.answer, 7, IDS[:10], [1] * 10)
        feeding.call(deaf.answer, 7, IDS[10:20], [1] * 10)
        deaf.deaf = True
        given_ = feeding.do(feeding.feedback.give("m", [label(id_, 1) for id_ in IDS[:20]]))
        assert (given_.counts[Outcome.JOINED], given_.missing) == (10, ("deaf",))
        deaf.deaf = False
        assert eventually(lambda: not deaf.replica.is_silent(0.2))
        given_ = feeding.do(feeding.feedback.give("m", [label(id_, 1) for id_ in IDS[:20]]))
        assert (given_.counts[Outcome.JOINED], given_.counts[Outcome.REPEATED]) == (10, 10)
        assert counts(feeding) == (20, 20, 0)


def test_without_a_replica_labels_are_refused_and_not_lost_in_silence(tmp_path):
    with Feeding(tmp_path) as feeding, pytest.raises(Refused, match="no replica is there"):
        feeding.do(feeding.feedback.give("m", [label("a", 1)]))


def test_a_replica_that_breaks_says_so(tmp_path, monkeypatch):
    with Feeding(tmp_path) as feeding:
        one = feeding.replica("r0")
        monkeypatch.setattr(one.recall, "_join", lambda *_args: 1 / 0)
        given_ = feeding.do(feeding.feedback.give("m", [label("a", 1)]))
        assert (given_.counts[Outcome.UNMATCHED], given_.missing) == (1, ("r0",))


def test_a_control_that_starts_anew_is_told_all_again(tmp_path):
    with Feeding(tmp_path) as feeding:
        one = feeding.replica("r0")
        feeding.call(one.answer, 7, IDS[:10], [1] * 10)
        feeding.do(feeding.feedback.give("m", [label(id_, 2) for id_ in IDS[:10]]))
        feeding.do(feeding.feedback.close())
        feeding.do(feeding._start())
        feeding.roster.replicas["r0"] = one.replica
        assert counts(feeding) == (10, 10, 10)
        feeding.call(one.teller.begin)
        feeding.do(one.tell())
        assert counts(feeding) == (10, 10, 10)
        assert feeding.feedback.loss("m", "7")["wrong"] == 10


def test_a_version_that_gets_worse_is_an_event_and_the_metrics_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    with Feeding(tmp_path, baseline_labels=200) as feeding:
        happened = []
        feeding.feedback.happened = happened.append
        one = feeding.replica("r0")
        ids = [f"{number}" for number in range(600)]
        feeding.call(one.answer, 7, ids, [1] * 600)
        feeding.do(
            feeding.feedback.give(
                "m", [label(id_, 1 if number % 20 else 2) for number, id_ in enumerate(ids[:300])]
            )
        )
        assert not happened
        assert feeding.feedback.loss("m", "7")["state"] == "as before"
        assert feeding.feedback.loss("m", "8") is None
        feeding.do(feeding.feedback.give("m", [label(id_, 2) for id_ in ids[300:]]))
        assert [(event["event"], event["model"], event["version"], event["role"]) for event in happened] == [
            ("degraded", "m", "7", LIVE)
        ]
        assert feeding.feedback.loss("m", "7")["state"] == "degraded"
        assert eventually(lambda: getattr(one.teller.losses.get(("m", "7", LIVE)), "degraded", False))
        said = feeding.do(feeding.feedback.report("m"))
        assert said["events"][0]["event"] == "degraded"


@given(st.permutations(list(range(40))), st.integers(0, 40))
@settings(max_examples=10)
def test_the_order_of_labels_does_not_change_what_is_counted(tmp_path_factory, order, cut):
    with Feeding(tmp_path_factory.mktemp("feeding")) as feeding:
        one, other = feeding.replica("r0"), feeding.replica("r1")
        feeding.call(one.answer, 7, IDS[:20], [1] * 20)
        feeding.call(other.answer, 8, IDS[20:40], [2] * 20)
        labels = [label(IDS[at], at % 3) for at in order]
        for part in (labels[:cut], labels[cut:]):
            if part:
                feeding.do(feeding.feedback.give("m", part))
        assert counts(feeding) == (20, 20, 13)
        assert counts(feeding, "8") == (20, 20, 13)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ([], "expected an object, got []"),
        ({"id": "a"}, "label: expected `label`, a class, or `score`"),
        ({"id": "a", "label": 1, "score": 0.5}, "and one of the two"),
        ({"id": "", "label": 1}, "id: expected the id of a request, got ''"),
        ({"id": 7, "label": 1}, "id: expected the id of a request, got 7"),
        ({"id": "a", "labl": 1}, "labl: unknown field; did you mean 'label'?"),
        ({"id": "a", "label": -1}, "label: expected a class by its number from 0 on"),
        ({"id": "a", "label": 0.5}, "a number that is no class is a `score`"),
        ({"id": "a", "score": "much"}, "score: expected a finite number, got 'much'"),
        ({"id": "a", "label": 1, "row": -2}, "row: expected a row of the request, counted from 0, got -2"),
        ({"id": "a", "label": 1, "time": "soon"}, "time: 'soon' is no moment"),
        ({"labels": []}, "labels: expected 1 to 10000 of them, got 0"),
        ({"labels": [{"id": "a", "label": 1}, {"id": "b"}]}, "labels[1].label: expected"),
        ({"labels": [{"id": "a", "label": 1}], "time": "2026-01-01"}, "go into each of them"),
    ],
)
def test_a_label_that_means_nothing_is_answered_with_what_would(body, complaint):
    with pytest.raises(BadLabel) as caught:
        labels_of(body, NOW_US)
    assert complaint in str(caught.value)


def test_labels_say_when_they_became_known_and_otherwise_it_is_now():
    one, other = labels_of(
        {
            "labels": [
                {"id": "a", "label": True, "time": "2026-11-24T14:05Z"},
                {"id": "b", "score": 3, "row": 2},
            ]
        },
        NOW_US,
    )
    assert (one.truth, one.at_us) == (1, 1_795_529_100_000_000)
    assert (other.truth, other.at_us, other.row) == (3.0, NOW_US, 2)
    assert isinstance(other.truth, float)
