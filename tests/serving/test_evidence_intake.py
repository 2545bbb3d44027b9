"""Answers are counted as one by one, however they were batched and held; and those that were not drawn, never."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.evidence import intake as module
from serving.evidence.counts import LATENCIES, LOW_CONFIDENCE, NAN, Counts
from serving.evidence.intake import Intake
from serving.evidence.page import Arm, Page
from serving.evidence.spread import STEPS, Spread
from serving.evidence.terms import Terms
from serving.layout import bind
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.track import Batch
from serving.wire import DATATYPES, Call, InferRequest, TensorIn, TensorSpec

LATE_NS = (1_000, 5_000, 9_000)
TERMS = Terms("m", frozenset({"8"}), LATE_NS, 0.75)


def spec(rows_max: int = 64, **outputs: tuple[str, tuple[int, ...]]) -> ModelSpec:
    told = outputs or {"y": ("FP32", (-1, 3))}
    first = (-1,) if rows_max else (1,)
    return ModelSpec(
        Artifact("m", 8, "d", Path("m"), 1),
        ModelConfig("m", rows_max=rows_max or None),
        (TensorSpec("x", DATATYPES["FP32"], (*first, 2)),),
        tuple(TensorSpec(name, DATATYPES[kind], shape) for name, (kind, shape) in told.items()),
        rows_max,
    )


class Asked:
    """A request, what it was answered, and what a count of it alone says."""

    def __init__(
        self,
        of: ModelSpec,
        page: Page | None,
        answer: dict[str, np.ndarray],
        took_ns: int = 0,
        slot: int = -1,
    ) -> None:
        self.answer = answer
        self.took_ns = took_ns
        self.rows = len(next(iter(answer.values()))) if of.rows_max else 0
        call = Call((TensorIn("x", DATATYPES["FP32"], (self.rows or 1, 2)),))
        self.request = InferRequest(call, [b""], None, b"", 10**12 - took_ns)  # type: ignore[arg-type]
        self.request.layout = bind(of, call)
        self.request.page, self.request.slot = page, slot


def batch(asked: Sequence[Asked], names: Sequence[str] = ("y",), answered_ns: int = 10**12) -> Batch:
    outputs = [np.concatenate([each.answer[name] for each in asked]) for name in names]
    rows = sum(each.rows for each in asked)
    made = Batch([each.request for each in asked], rows, 0, feeds={}, outputs=outputs)
    made.answered_ns = answered_ns
    made.arrivals = [each.request.arrived_ns for each in asked if not each.request.dropped]
    if any(each.request.dropped for each in asked):
        made.answered = [each.request for each in asked if not each.request.dropped]
    return made


def naive(asked: Sequence[Asked], page: Page, terms: Terms = TERMS) -> dict[str, int]:
    """Count the events of one page, request by request."""
    counted = [each for each in asked if each.request.page is page and not each.request.dropped]

    def units(having: list[Asked]) -> int:
        slots = [each.request.slot for each in having]
        return slots.count(-1) + len(set(slots) - {-1})

    def top(each: Asked) -> float:
        rows = [max(row) for row in each.answer["y"].astype(float) if not np.isnan(row).any()]
        return min(rows, default=math.nan)

    events = {
        NAN: [each for each in counted if not np.isfinite(each.answer["y"]).all()],
        LOW_CONFIDENCE: [each for each in counted if top(each) < (terms.confidence or 0)],
    }
    for metric, late_ns in zip(LATENCIES, terms.late_ns or (), strict=True):
        events[metric] = [each for each in counted if each.took_ns > late_ns]
    return {"request": units(counted), **{metric: units(having) for metric, having in events.items()}}


def events(counts: Counts, metrics: Sequence[str]) -> dict[str, int]:
    return {metric: counts.events(metric) for metric in metrics}


def chances(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = rng.dirichlet((0.4, 0.4, 0.4), rows).astype(np.float32)
    made[rng.random(rows) < 0.1, 1] = rng.choice([np.nan, np.inf])
    return made


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[int, int, int, int, int, bool]]:
    one = st.tuples(
        st.integers(0, 2),
        st.integers(1, 3) if draw(st.booleans()) else st.just(1),
        st.integers(0, 10_000),
        st.integers(0, 12_000),
        st.sampled_from([-1, -1, 5, 77]) if draw(st.booleans()) else st.just(-1),
        st.just(value=False) if draw(st.booleans()) else st.booleans(),
    )
    return draw(st.lists(one, min_size=1, max_size=40))


def cuts(data: st.DataObject, asked: list[Asked]) -> Iterator[list[Asked]]:
    while asked:
        size = data.draw(st.integers(1, min(len(asked), 8)))
        yield asked[:size]
        asked = asked[size:]


@given(requests(), st.integers(1, 9), st.data())
def test_answers_count_as_one_by_one_however_they_are_batched_and_held(
    drawn: list[tuple[int, int, int, int, int, bool]], held_max: int, data: st.DataObject
) -> None:
    of = spec()
    pages = [None, *(Page(Arm("m", 1, "8", arm)) for arm in ("split", "baseline"))]
    asked = []
    for page, rows, seed, took_ns, slot, dropped in drawn:
        each = Asked(of, pages[page], {"y": chances(rows, seed)}, took_ns, slot)
        each.request.dropped = dropped
        asked.append(each)
    for page in pages[1:]:
        assert page is not None
        page.keyed = any(slot >= 0 for *_, slot, _ in drawn)
    intake = Intake(of, TERMS, Spread())
    intake._held_max = held_max
    intake.tap = intake._tap()
    for part in cuts(data, asked):
        intake.tap(batch(part))
    intake.flush()
    for page in pages[1:]:
        assert page is not None
        expected = naive(asked, page)
        assert events(page.counts(), list(expected)) == expected
        answered = [each for each in asked if each.request.page is page and not each.request.dropped]
        counts = page.counts()
        assert counts.requests == counts.timed == counts.scored == len(answered)


def test_a_client_that_leaves_after_its_answer_counts_all_the_same() -> None:
    of, page = spec(), Page(Arm("m", 1, "8", "split"))
    intake = Intake(of, TERMS, Spread())
    asked = Asked(of, page, {"y": chances(1, 1)})
    intake.tap(batch([asked]))
    asked.request.dropped = True
    intake.flush()
    assert page.counts().requests == 1


def test_a_version_that_takes_no_batches_counts_by_its_whole_outputs() -> None:
    of, page = spec(0, y=("FP32", (2, 3)), n=("INT64", (1,))), Page(Arm("m", 1, "8", "split"))
    intake = Intake(of, TERMS, Spread())
    sure, unsure = np.float32([[0.9, 0.1, 0], [0.8, 0.2, 0]]), np.float32([[0.9, 0.1, 0], [0.5, 0.3, 0.2]])
    odd = np.float32([[0.9, 0.1, 0], [np.nan, 0, 0]])
    for answer in (sure, unsure, odd, sure, unsure):
        intake.tap(batch([Asked(of, page, {"y": answer, "n": np.int64([1])})], "yn"))
    intake.flush()
    counts = page.counts()
    assert (counts.requests, counts.nan, counts.scored, counts.unsure) == (5, 1, 5, 2)


def test_rows_of_any_size_and_batches_that_are_none_are_looked_at_one_by_one() -> None:
    of, page = spec(8, y=("FP32", (-1, -1))), Page(Arm("m", 1, "8", "split"))
    intake = Intake(of, Terms("m", frozenset({"8"}), None, 0.75, "y"), Spread())
    for size in (1, 3, 3, 2, 5):
        intake.tap(batch([Asked(of, page, {"y": np.full((1, size), 1 / size, np.float32)})]))
    whole = batch([Asked(of, page, {"y": np.float32([[np.inf, 0], [0, 1]])})])
    whole.rows = 0
    intake.tap(whole)
    intake.flush()
    counts = page.counts()
    assert (counts.requests, counts.nan, counts.unsure) == (6, 1, 4)


@pytest.mark.parametrize("kind", ["FP16", "FP32", "FP64", "BF16"])
def test_every_type_of_floats_is_looked_at(kind: str) -> None:
    of, page = spec(8, y=(kind, (-1, 2))), Page(Arm("m", 1, "8", "split"))
    intake = Intake(of, TERMS, Spread())
    dtype = DATATYPES[kind].dtype
    for row in ([0.5, 0.5], [0.25, 0.75], [0.0, 1.0], [np.nan, 0.5], [0.5, -np.inf]):
        intake.tap(batch([Asked(of, page, {"y": np.array([row]).astype(dtype)})]))
    intake.flush()
    counts = page.counts()
    assert (counts.requests, counts.nan) == (5, 2)
    assert counts.unsure >= 1


def test_values_that_are_large_are_not_odd() -> None:
    of, page = spec(8, y=("FP16", (-1, 2))), Page(Arm("m", 1, "8", "split"))
    intake = Intake(of, TERMS, Spread())
    intake.tap(batch([Asked(of, page, {"y": np.full((8, 2), 65_000, np.float16)})]))
    of32 = spec(8, y=("FP32", (-1, 2)))
    wide = Intake(of32, TERMS, Spread())
    wide.tap(batch([Asked(of32, page, {"y": np.full((8, 2), 3e38, np.float32)})]))
    intake.flush()
    wide.flush()
    assert (page.counts().requests, page.counts().nan) == (2, 0)


def test_without_scores_or_terms_for_them_nothing_is_said_of_confidence() -> None:
    page = Page(Arm("m", 1, "8", "split"))
    for of, terms in (
        (spec(8, y=("FP32", (-1, 1))), TERMS),
        (spec(8, y=("INT64", (-1, 4))), TERMS),
        (spec(), Terms("m", frozenset({"8"}))),
        (spec(), Terms("m", frozenset({"8"}), None, 0.7, "other")),
    ):
        intake = Intake(of, terms, Spread())
        shape = (1, of.outputs[0].shape[1])
        intake.tap(batch([Asked(of, page, {"y": np.zeros(shape, of.outputs[0].datatype.dtype)})]))
        intake.flush()
    counts = page.counts()
    assert (counts.requests, counts.scored, counts.unsure, counts.timed) == (4, 0, 0, 2)


def test_scores_that_are_no_probabilities_are_made_such() -> None:
    of, page, spread = spec(), Page(Arm("m", 1, "8", "split")), Spread()
    intake = Intake(of, Terms("m", frozenset({"8"})), spread)
    logits = np.log(np.float32([[0.8, 0.15, 0.05]])) + 3
    for row in (logits, np.float32([[0.805, 0.1, 0.095]]), np.float32([[np.nan, 1, 0]])):
        intake.tap(batch([Asked(of, page, {"y": row})]))
    intake.flush()
    assert spread.to_json()[79] + spread.to_json()[80] == 2
    assert sum(spread.to_json()) == 2


def test_a_single_score_is_that_of_one_of_two_classes() -> None:
    of, spread = spec(8, y=("FP32", (-1, 1))), Spread()
    intake = Intake(of, Terms("m", frozenset({"8"}), None, None, "y"), spread)
    for score in (0.105, 0.895, 1.0, -4.0, np.inf):
        intake.tap(batch([Asked(of, None, {"y": np.float32([[score]])})]))
    intake.flush()
    counts = spread.to_json()
    assert len(counts) == STEPS
    assert {at: count for at, count in enumerate(counts) if count} == {89: 2, 98: 1, 99: 1}


def test_confidence_is_measured_of_what_was_not_drawn_as_well() -> None:
    of, spread = spec(), Spread()
    intake = Intake(of, Terms("m", frozenset({"8"})), spread)
    for seed in range(40):
        intake.tap(batch([Asked(of, None, {"y": np.float32([[0.5, 0.5, 0]])}) for _ in range(seed % 3 + 1)]))
    intake.flush()
    assert spread.to_json()[50] == sum(seed % 3 + 1 for seed in range(40))


def test_what_is_held_is_bounded_in_batches_in_requests_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, page = spec(), Page(Arm("m", 1, "8", "split"))
    monkeypatch.setattr(module, "HELD_MAX", 512)
    intake = Intake(of, TERMS, Spread())
    for _ in range(1100):
        intake.tap(batch([Asked(of, page, {"y": chances(1, 1)})]))
        assert len(intake._held) < 512
    assert page.counts().requests > 1100 - 512
    for _ in range(600):
        intake.tap(batch([Asked(of, page, {"y": chances(1, 1)}) for _ in range(64)]))
    assert len(intake._held) <= 512 // 64
    large = spec(8, y=("FP32", (-1, 60_000)))
    assert Intake(large, TERMS, Spread())._held_max == 1
    monkeypatch.setattr(module, "HELD_BYTES_MAX", 1000)
    free = spec(8, y=("FP32", (-1, -1)))
    sized = Intake(free, TERMS, Spread())
    for _ in range(100):
        sized.tap(batch([Asked(free, page, {"y": np.zeros((1, 10), np.float32)})]))
        assert len(sized._held) < 1000 // 40


def test_what_cannot_be_looked_at_is_said_once_and_nothing_else_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of, page = spec(), Page(Arm("m", 1, "8", "split"))
    intake = Intake(of, TERMS, Spread())
    broken = batch([Asked(of, page, {"y": chances(1, 1)})])
    broken.outputs = [None]  # type: ignore[list-item]
    with caplog.at_level(logging.ERROR, "turnout.evidence"):
        for _ in range(3):
            intake.tap(broken)
            intake.flush()
    assert caplog.text.count("evidence_broke") == 1
    intake.tap(batch([Asked(of, page, {"y": chances(1, 1)})]))
    intake.flush()
    assert page.counts().requests == 1
