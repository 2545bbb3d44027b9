"""Is what an output says read as what the version decided?"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.labels.decision import NO_CLASS, By, Undecided, decide, highest
from tests.labelling import classifier, deciding, tensor, version

FLOATS = st.floats(-20, 20, width=32)


def naive(scores: np.ndarray) -> list[tuple[int, float]]:
    """Return the class and its probability of each row, one after the other."""
    found = []
    for row in scores.astype(np.float64):
        if np.isnan(row).any():
            found.append((NO_CLASS, np.nan))
            continue
        best = int(row.argmax())
        if (row >= 0).all() and abs(row.sum() - 1) <= 1e-3:
            found.append((best, row[best]))
        else:
            with np.errstate(invalid="ignore"):
                powers = np.exp(row - row[best])
            found.append((best, 1 / powers.sum() if np.isfinite(row[best]) else np.nan))
    return found


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(2, 12)), elements=FLOATS), st.data()
)
def test_the_highest_score_decides_and_its_softmax_says_how_surely(scores, data):
    for at in data.draw(st.lists(st.integers(0, scores.size - 1), max_size=3)):
        scores.reshape(-1)[at] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    classes, confidence = highest(scores)
    for (want, probability), got, sure in zip(naive(scores), classes, confidence, strict=True):
        assert got == want
        assert sure == pytest.approx(probability, rel=1e-5, nan_ok=True)


@given(st.integers(1, 30), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_probabilities_are_taken_as_they_are(rows, classes, seed):
    scores = np.random.default_rng(seed).dirichlet(np.ones(classes), rows).astype(np.float32)
    decided, sure = highest(scores)
    assert (decided == scores.argmax(axis=1)).all()
    assert (sure == scores.max(axis=1)).all()


def test_a_whole_number_comes_before_scores_and_these_before_a_single_one():
    score, scores = tensor("score", "FP32", -1, 1), tensor("scores", "FP32", -1, 3)
    number = tensor("number", "INT64", -1, 1)
    assert deciding(version(score, scores, number)).by is By.CLASS
    assert deciding(version(score, scores)).by is By.SCORES
    assert deciding(version(score)).by is By.SCORE
    assert deciding(version(score, scores, number), output="score").by is By.SCORE


def test_what_says_nothing_about_a_row_decides_nothing():
    image, ids = tensor("image", "FP32", -1, 3, 8, 8), tensor("ids", "INT64", -1, 5)
    with pytest.raises(Undecided, match="no output has a class or a score for each row"):
        deciding(version(image, ids))
    with pytest.raises(Undecided, match="output 'image' decides nothing about a row; outputs that can: y"):
        deciding(version(image, tensor("y", "FP32", -1)), output="image")


def test_names_are_those_of_the_output_or_of_the_one_beside_it():
    assert deciding(classifier()).names == ("zero", "one", "two")


def test_a_class_has_the_probability_that_its_scores_give_it_and_none_if_they_say_another():
    classes, sure = decide(
        deciding(classifier()), [np.array([1, 0]), np.array([[0.2, 0.7, 0.1]] * 2, np.float32)]
    )
    assert classes.tolist() == [1, 0]
    assert sure.tolist() == pytest.approx([0.7, np.nan], nan_ok=True)


@pytest.mark.parametrize("datatype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_single_score_decides_by_its_threshold(datatype):
    chosen = deciding(version(tensor("y", "FP32", -1, 1)), threshold=0.25)
    classes, scores = decide(chosen, [np.array([[0.2], [0.25], [np.nan]], datatype)])
    assert classes.tolist() == [0, 1, NO_CLASS]
    assert scores.tolist() == pytest.approx([0.2, 0.25, np.nan], rel=1e-2, nan_ok=True)


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT8", "INT32", "UINT64"])
def test_a_class_may_be_of_any_whole_type(datatype):
    spec = version(tensor("y", datatype, -1))
    values = np.array([0, 1, 1], spec.outputs[0].datatype.dtype)
    assert decide(deciding(spec), [values])[0].tolist() == [0, 1, 1]


def test_a_number_that_can_be_no_class_is_none():
    chosen = deciding(version(tensor("y", "INT64", -1)))
    assert decide(chosen, [np.array([-1, 1 << 40, 7])])[0].tolist() == [NO_CLASS, NO_CLASS, 7]
