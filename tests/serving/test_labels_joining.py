"""Are labels counted for the version that answered, each answer once, whatever their order?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.histogram import EDGES_NS
from serving.evidence.page import Arm, Page
from serving.labels.joining import LIVE, Outcome
from serving.labels.quality import BINS, OTHER, Quality
from tests.labelling import NOW_US, Memory, batch, classifier, label, request, sure, tensor, version

ANSWERS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2),
    st.tuples(st.sampled_from([7, 8]), st.integers(0, 2), st.sampled_from([0.5, 0.8, 0.95])),
    max_size=20,
)
LABELS = st.lists(
    st.tuples(
        st.text("abcdefghij", min_size=1, max_size=2),
        st.sampled_from([0, 1, 2, "zero", "two", "nobody", 0.5]),
        st.integers(-5, 10**7),
    ),
    max_size=40,
)
NAMES = {"zero": 0, "one": 1, "two": 2}


def answered(answers: dict[str, tuple[int, int, float]], **settings: Any) -> Memory:
    memory = Memory(**settings)
    for id_, (number, class_, confidence) in answers.items():
        made = request(id_.encode(), stamp=b"%d;3;split" % number)
        memory.answer(classifier(number), batch([made], np.array([class_]), sure([class_], confidence)))
    return memory


@given(ANSWERS, LABELS, st.lists(st.integers(1, 5)))
def test_labels_are_joined_as_a_dictionary_would_do_it(answers, labels, portions):
    """The naive twin: a dictionary of answers, and a set of those that have a label."""
    memory = answered(answers)
    given_ = [label(id_, truth, at_us=NOW_US + delay) for id_, truth, delay in labels]
    outcomes, quality, at = [], {}, 0
    for size in [*portions, len(given_)]:
        joined = memory.label(*given_[at : at + size])
        outcomes += joined.outcomes
        for key, each in joined.quality.items():
            quality[key] = quality.get(key, Quality()) + each
        at += size
    labelled: set[str] = set()
    counts: dict[str, Counter[Any]] = {"7": Counter(), "8": Counter()}
    expected = []
    for id_, truth, delay in labels:
        if id_ not in answers:
            expected.append(Outcome.UNMATCHED)
            continue
        number, class_, confidence = answers[id_]
        said = NAMES.get(truth, -1) if isinstance(truth, str) else truth
        if isinstance(said, float) or said < 0:
            expected.append(Outcome.MISFIT)
        elif id_ in labelled:
            expected.append(Outcome.REPEATED)
        else:
            labelled.add(id_)
            expected.append(Outcome.JOINED)
            counts[str(number)].update(["classed", ("cell", said, class_)])
            counts[str(number)].update(right=int(said == class_))
            bin_ = int(np.searchsorted(EDGES_NS, max(delay, 0), side="right") - 1)
            counts[str(number)].update([("delay", max(bin_, 0))])
            counts[str(number)].update(
                {"squared": round((float(np.float32(confidence)) - (said == class_)) ** 2 * 1e6)}
            )
            counts[str(number)].update([("bin", min(int(float(np.float32(confidence)) * BINS), BINS - 1))])
    assert outcomes == expected
    for number in ("7", "8"):
        said = quality.get((number, LIVE), Quality())
        count = counts[number]
        assert said.classed == count["classed"]
        assert said.right == count["right"]
        assert said.squared == count["squared"]
        assert said.cells == {key[1:]: n for key, n in count.items() if key[0] == "cell"}
        assert said.delays == {key[1]: n for key, n in count.items() if key[0] == "delay"}
        assert {at: each.labels for at, each in said.bins.items()} == {
            key[1]: n for key, n in count.items() if key[0] == "bin"
        }


@given(ANSWERS, st.permutations(list(range(20))), st.data())
def test_the_order_of_labels_and_how_they_are_divided_changes_no_count(answers, order, data):
    labels = [label(id_, at % 3) for at, id_ in enumerate(answers)]
    one, other = answered(answers), answered(answers)
    whole = one.label(*labels).quality
    mixed = [labels[at] for at in order if at < len(labels)]
    cut = data.draw(st.integers(0, len(mixed)))
    parts = [other.label(*mixed[:cut]).quality, other.label(*mixed[cut:]).quality]
    sums = {
        key: sum((part.get(key, Quality()) for part in parts), Quality()) for key in {**parts[0], **parts[1]}
    }
    assert sums == whole


@given(ANSWERS, ANSWERS)
def test_counts_survive_their_way_to_the_control_and_add_up(one, other):
    for answers in (one, other):
        for quality in answered(answers).label(*[label(id_, 1) for id_ in answers]).quality.values():
            assert Quality.from_json(quality.to_json()) == quality
            assert quality + Quality() == quality


def test_a_label_given_again_counts_once():
    memory = answered({"a": (7, 1, 0.8)})
    assert memory.label(label("a", 1), label("a", 2)).outcomes == [Outcome.JOINED, Outcome.REPEATED]
    again = memory.label(label("a", 1))
    assert again.outcomes == [Outcome.REPEATED]
    assert not again.quality


def test_an_id_that_was_answered_again_means_the_last_answer():
    memory = answered({"a": (7, 1, 0.8)})
    memory.answer(classifier(8), batch([request(b"a", stamp=b"8;3;split")], np.array([2]), sure([2])))
    assert set(memory.label(label("a", 2)).quality) == {("8", LIVE)}


def test_a_label_that_comes_too_late_finds_nothing():
    memory = answered({"a": (7, 1, 0.8)}, ttl_s=60)
    assert memory.label(label("a", 1), at_us=NOW_US + 60_000_001).outcomes == [Outcome.UNMATCHED]
    assert memory.label(label("a", 1), at_us=NOW_US + 60_000_000).outcomes == [Outcome.JOINED]


def test_rows_of_a_request_have_labels_of_their_own():
    memory = Memory()
    memory.answer(
        classifier(), batch([request(b"a", 3), request(b"b")], np.array([0, 1, 2, 1]), sure([0, 1, 2, 1]))
    )
    joined = memory.label(label("a", 0, row=0), label("a", 1, row=2), label("a", 1), label("b", 1, row=0))
    assert joined.outcomes == [Outcome.JOINED, Outcome.JOINED, Outcome.UNMATCHED, Outcome.JOINED]
    assert joined.quality["7", LIVE].right == 2
    assert joined.quality["7", LIVE].cells == {(0, 0): 1, (1, 2): 1, (1, 1): 1}


def test_classes_beyond_those_that_are_told_apart_are_one_but_right_or_wrong_each():
    spec = version(tensor("y", "INT64", -1))
    memory = Memory(classes_max=2)
    memory.answer(spec, batch([request(b"a"), request(b"b"), request(b"c")], np.array([7, 8, 1])))
    quality = memory.label(label("a", 7), label("b", 7), label("c", 0)).quality["7", LIVE]
    assert (quality.classed, quality.right) == (3, 1)
    assert quality.cells == {(OTHER, OTHER): 2, (0, 1): 1}


def test_an_answer_that_is_no_number_is_wrong_whatever_the_label():
    spec = version(tensor("y", "FP32", -1, 3))
    memory = Memory()
    memory.answer(spec, batch([request(b"a")], np.full((1, 3), np.nan, np.float32)))
    quality = memory.label(label("a", 0)).quality["7", LIVE]
    assert (quality.classed, quality.right, dict(quality.bins)) == (1, 0, {})


def test_scores_are_compared_with_scores_and_classes_with_classes():
    spec = version(tensor("y", "FP32", -1, 1))
    memory = Memory()
    made = batch(
        [request(b"a"), request(b"b"), request(b"c"), request(b"d")],
        np.array([[0.25], [3.0], [np.nan], [0.75]], np.float32),
    )
    memory.answer(spec, made)
    joined = memory.label(label("a", 0.5), label("b", 1.0), label("c", 1.0), label("d", 1))
    quality = joined.quality["7", LIVE]
    assert joined.outcomes == [Outcome.JOINED] * 4
    assert (quality.scored, quality.unreal, quality.classed, quality.right) == (2, 1, 1, 1)
    assert quality.absolute == pytest.approx(2.25)
    assert math.sqrt(quality.square) == pytest.approx(math.hypot(0.25, 2.0))
    assert [loss.loss for loss in joined.distances["7", LIVE]] == pytest.approx([0.25, 2.0])


def test_of_a_single_score_the_confidence_is_that_of_the_class_it_decides():
    spec = version(tensor("y", "FP32", -1, 1))
    memory = Memory()
    memory.answer(spec, batch([request(b"a"), request(b"b")], np.array([[0.2], [0.9]], np.float32)))
    quality = memory.label(label("a", 0), label("b", 0)).quality["7", LIVE]
    assert quality.squared == round(0.2**2 * 1e6) + round(0.9**2 * 1e6)


def test_labels_of_what_was_drawn_count_as_evidence_of_the_arm():
    page = Page(Arm("m", 3, "7", "split"))
    memory = Memory()
    drawn = [request(b"a", page=page), request(b"b", page=page), request(b"c")]
    drawn[1].slot = 17
    memory.answer(classifier(), batch(drawn, np.array([0, 1, 1]), sure([0, 1, 1])))
    joined = memory.label(label("a", "zero"), label("b", "two"), label("c", "two"))
    for of, answered_, said, slot in joined.remarks:
        of.label(answered_, said, slot)
    counts = page.counts()
    assert (counts.labelled, counts.wrong, dict(counts.fp), dict(counts.fn)) == (2, 1, {"one": 1}, {"two": 1})
    assert counts.events("wrong") == 1
    assert counts.held["wrong"] == 1


def test_a_class_that_the_version_does_not_have_is_a_misfit():
    memory = answered({"a": (7, 1, 0.8)})
    assert memory.label(label("a", "seven")).outcomes == [Outcome.MISFIT]
    assert memory.label(label("a", 0.5)).outcomes == [Outcome.MISFIT]
    assert memory.label(label("a", "seven"), label("a", 1)).outcomes == [Outcome.MISFIT, Outcome.JOINED]
