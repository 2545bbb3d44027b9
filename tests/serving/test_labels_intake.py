"""Is every answer that has an id remembered as it was given, whatever its batch was like?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.labels import intake as module
from serving.labels.answers import keys_of, row_key
from serving.labels.intake import Intake
from tests.labelling import Memory, batch, classifier, deciding, request, sure, tensor, version

IDS = st.binary(max_size=3)
REQUESTS = st.lists(
    st.tuples(IDS, st.integers(1, 4), st.sampled_from([b"7;3;split", b"7;4;named"])), min_size=1, max_size=6
)


def remembered(memory: Memory) -> dict[int, tuple[int, str, int]]:
    """Return class, version and revision by key; of one key the last."""
    found = {}
    for segment in memory.tables.live("m").segments:
        for row in range(segment.rows):
            mark = segment.marks_of[segment.marks[row]]
            found[int(segment.keys[row])] = (int(segment.classes[row]), mark.version, mark.revision)
    return found


def key(id_: bytes, row: int, rows: int) -> int:
    own = keys_of([id_], 1)
    return int((row_key(own, np.array([row])) if rows > 1 else own)[0])


@given(st.lists(REQUESTS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_batches_together_are_remembered_as_requests_one_by_one(batches, random):
    memory, expected, unnamed = Memory(), {}, 0
    made = []
    for each in batches:
        requests = [request(id_, rows, stamp) for id_, rows, stamp in each]
        classes = [random.randrange(3) for _ in range(sum(rows for _, rows, _ in each))]
        made.append(batch(requests, np.array(classes), sure(classes)))
        at = 0
        for id_, rows, stamp in each:
            for row in range(rows):
                if id_:
                    expected[key(id_, row, rows)] = (classes[at + row], "7", int(stamp.split(b";")[1]))
                else:
                    unnamed += 1
            at += rows
    intake = memory.answer(classifier(), *made)
    assert remembered(memory) == expected
    assert intake.unnamed == unnamed
    assert intake.answered == sum(rows for each in batches for id_, rows, _ in each if id_)


def test_of_a_batch_only_requests_that_got_an_answer_are_remembered():
    gone, there = request(b"gone"), request(b"there")
    gone.dropped = True
    made = batch([gone, there], np.array([1, 2]), sure([1, 2]))
    made.answered = [there]
    memory = Memory()
    memory.answer(classifier(), made)
    assert remembered(memory) == {key(b"there", 0, 1): (2, "7", 3)}


def test_a_batch_whose_rows_cannot_be_told_apart_costs_the_others_nothing():
    good = batch([request(b"a")], np.array([1]), sure([1]))
    bad = batch([request(b"b", 2)], np.array([1, 1, 1]), sure([1, 1, 1]))
    memory = Memory()
    intake = memory.answer(classifier(), good, bad, good)
    assert remembered(memory) == {key(b"a", 0, 1): (1, "7", 3)}
    assert intake.misfits == 2


def test_a_model_that_does_not_batch_has_as_many_rows_as_its_answer():
    spec = version(tensor("y", "INT64", -1), rows_max=0)
    several = batch([request(b"a", 0)], np.array([5, 6]), rows=0)
    single = batch([request(b"b", 0)], np.array([7]), rows=0)
    memory = Memory()
    memory.answer(spec, several, single)
    assert remembered(memory) == {
        key(b"a", 0, 2): (5, "7", 3),
        key(b"a", 1, 2): (6, "7", 3),
        key(b"b", 0, 1): (7, "7", 3),
    }


def test_scores_of_any_number_of_classes_are_remembered():
    spec = version(tensor("y", "FP32", -1, -1))
    memory = Memory()
    memory.answer(
        spec,
        batch([request(b"a")], np.array([[0.1, 0.9]], np.float32)),
        batch([request(b"b")], np.array([[0.1, 0.1, 0.8]], np.float32)),
    )
    assert {class_ for class_, _, _ in remembered(memory).values()} == {1, 2}


class Inputs:
    """Stands for what a request was asked with; nobody is to keep it."""


def test_no_large_input_is_kept_until_the_thread_comes():
    spec = version(tensor("y", "INT64", -1), inputs=(tensor("x", "FP32", -1, 3, 512, 512),))
    intake = Intake(spec, deciding(spec))
    for number in range(10):
        intake.tap(batch([request(b"%d" % number)], np.array([number])))
    assert not intake._held
    intake.fold()
    assert sorted(int(rows.classes[0]) for _ in range(10) for rows in intake.take(0)) == list(range(10))


def test_what_waits_is_bounded_and_what_does_not_fit_is_counted(monkeypatch):
    monkeypatch.setattr(module, "HELD_MAX", 10)
    monkeypatch.setattr(module, "FOLDED_ROWS", 4)
    spec = classifier()
    intake = Intake(spec, deciding(spec))
    for number in range(25):
        intake.tap(batch([request(b"%d" % number, 2)], np.array([1, 1]), sure([1, 1])))
    intake.fold()
    taken = 0
    while intake.waiting:
        taken += sum(len(rows.keys) for rows in intake.take(0))
    assert (taken, intake.full) == (40, 10)


def test_the_loop_takes_in_many_scores_in_portions(monkeypatch):
    monkeypatch.setattr(module, "FOLDED_SCORES", 12)
    spec = classifier()
    intake = Intake(spec, deciding(spec))
    for number in range(9):
        intake.tap(batch([request(b"%d" % number)], np.array([1]), sure([1])))
    assert [len(rows.keys) for _ in range(2) for rows in intake.take(0)] == [4, 4]
    intake.fold()
    assert [len(rows.keys) for rows in intake.take(0)] == [1]


def test_requests_are_evidence_once_however_many_rows_they_have():
    page = object()
    memory = Memory()
    memory.answer(classifier(), batch([request(b"a", 3, page=page)], np.array([0, 1, 2]), sure([0, 1, 2])))
    (segment,) = memory.tables.live("m").segments
    pages = [segment.marks_of[segment.marks[row]].page for row in range(3)]
    assert pages == [page, None, None]
