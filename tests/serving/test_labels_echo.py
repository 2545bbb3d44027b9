"""Does what a shadow decided come back under the keys by which the answers are remembered?"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.labels import echo as module
from serving.labels.answers import Rows
from serving.labels.echo import Echo, Echoing
from serving.labels.joining import SHADOW, Sought, join
from serving.shadow import sample
from tests.labelling import NOW_US, Memory, batch, classifier, deciding, label, request, sure

SHADOW_SPEC = classifier(8)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo(SHADOW_SPEC, deciding(SHADOW_SPEC))
    yield made
    made.close()


def process(of: Echo) -> Echoing:
    """Return the other side, made of what a process is told in JSON."""
    return Echoing(json.loads(json.dumps(of.task())))


def taken(of: Echo) -> list[Rows]:
    """Return what there is: it is seen at the look after the next."""
    return [*of.take(NOW_US), *of.take(NOW_US)]


@given(st.lists(st.tuples(st.binary(max_size=2), st.integers(1, 3)), min_size=1, max_size=6), st.data())
def test_rows_have_the_keys_of_the_answers_whichever_of_them_are_drawn(requests, data):
    made = [request(id_, rows) for id_, rows in requests]
    total = sum(rows for _, rows in requests)
    classes = data.draw(st.lists(st.integers(0, 2), min_size=total, max_size=total))
    answered = batch(made, np.array(classes), sure(classes))
    memory = Memory()
    memory.answer(classifier(), answered)
    remembered = {
        int(key) for segment in memory.tables.live("m").segments for key in segment.keys[: segment.rows]
    }
    of = Echo(SHADOW_SPEC, deciding(SHADOW_SPEC))
    try:
        keys = of.keys(answered, total)
        assert (keys is None) == (not any(id_ for id_, _ in requests))
        if keys is not None:
            assert {int(key) for key in keys if key != module.NO_KEY} == remembered
    finally:
        of.close()


def test_what_was_decided_comes_back_with_its_key_and_its_confidence(echo):
    other = process(echo)
    keys = np.array([5, module.NO_KEY, -7])
    other.put(keys, [np.array([0, 1, 2]), sure([0, 1, 2], 0.9)])
    (rows,) = taken(echo)
    assert rows.keys.tolist() == [5, -7]
    assert rows.classes.tolist() == [0, 2]
    assert rows.scores.tolist() == pytest.approx([0.9, 0.9])
    assert (rows.marks[0].version, rows.marks[0].shadow) == ("8", True)
    assert echo.answered == 3


def test_what_finds_no_room_or_does_not_fit_is_counted_and_nothing_is_waited_for(echo, monkeypatch):
    other = process(echo)
    other.put(np.array([1, 2]), [np.array([0]), sure([0])])
    assert echo.lost == 2
    many = module.RING_BYTES // 24
    other.put(np.arange(1, many + 11), [np.zeros(many + 10, np.int64), sure([0] * (many + 10))])
    assert echo.lost == 12
    assert sum(len(rows.keys) for rows in taken(echo)) == many


def test_one_label_says_something_about_the_answer_and_about_the_shadow(echo):
    memory = Memory()
    answered = batch([request(b"a"), request(b"b")], np.array([0, 1]), sure([0, 1]))
    memory.answer(classifier(), answered)
    process(echo).put(echo.keys(answered, 2), [np.array([0, 2]), sure([0, 2])])
    for rows in taken(echo):
        memory.tables.remember("m", rows, "8")
    sought = Sought([label("a", 0), label("b", 1)])
    live = join(sought, memory.tables.live("m"), NOW_US, 64)
    (table,) = memory.tables.shadows("m")
    shadowed = join(sought, table, NOW_US, 64)
    assert {at: right for at, (_, right) in live.right.items()} == {0: True, 1: True}
    assert {at: right for at, (_, right) in shadowed.right.items()} == {0: True, 1: False}
    assert set(shadowed.quality) == {("8", SHADOW)}


def test_a_sample_carries_keys_and_one_without_has_none():
    spec = classifier()
    feeds, made = {"x": np.ones((3, 4), np.float32)}, [np.array([0, 1, 2]), sure([0, 1, 2])]
    plan = sample.plan(spec.inputs, spec.outputs, feeds, made, ["label", "probabilities"], 3)
    arrays = [*feeds.values(), *made]
    head = sample.HEAD.pack(1, 2, 3, 0, True, len(plan.text))
    keys = np.array([7, -8, 9])
    for chosen, expected in ((None, [7, -8, 9]), (np.array([0, 2]), [7, 9])):
        rows = 3 if chosen is None else 2
        head = sample.HEAD.pack(1, 2, rows, 0, chosen is None, len(plan.text))
        entry = memoryview(b"".join(sample.write(plan, head, [*arrays, keys], chosen)))
        read = sample.read(entry, spec.inputs, spec.outputs)
        assert read.keys is not None
        assert read.keys.tolist() == expected
        assert len(read.made[0][1]) == rows
        bare = memoryview(b"".join(sample.write(plan, head, arrays, chosen)))
        assert sample.read(bare, spec.inputs, spec.outputs).keys is None
