"""Is an answer found by its id for as long as it may be, whatever comes, and is the memory bounded?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.config import Labels
from serving.labels.answers import ROW_BYTES, Answers, Mark, Rows, keys_of, row_keys, wire_id
from serving.labels.tables import Tables
from tests.labelling import classifier, deciding

DECISION = deciding(classifier())
TTL_US = 1000


def rows_of(keys: list[int], at_us: int, mark: Mark | None = None) -> Rows:
    count = len(keys)
    return Rows(
        np.array(keys, np.int64),
        [mark or Mark("7", 3, DECISION)],
        np.zeros(count, np.int64),
        np.arange(count, dtype=np.int32),
        np.full(count, 0.5, np.float32),
        np.full(count, -1),
        at_us,
    )


class Remembering(RuleBasedStateMachine):
    """A table and a list of all that was ever answered, which says what may be found."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Answers(100, TTL_US)
        self.all: list[tuple[int, int, int]] = []  # key, when, and which class
        self.now_us = 0

    @rule(keys=st.lists(st.integers(-5, 5), min_size=1, max_size=40), later=st.integers(0, 400))
    def answer(self, keys: list[int], later: int) -> None:
        self.now_us += later
        self.table.add(rows_of(keys, self.now_us))
        self.all += [(key, self.now_us, at) for at, key in enumerate(keys)]

    @rule(later=st.integers(0, 400))
    def forget(self, later: int) -> None:
        self.now_us += later
        self.table.forget(self.now_us)

    @rule(keys=st.lists(st.integers(-7, 7), min_size=1, max_size=12))
    def find(self, keys: list[int]) -> None:
        """Each is found as it was answered last, or it is too old or no more among those remembered."""
        found = {}
        for hits in self.table.find(np.array(keys), self.now_us):
            for label, row in zip(hits.labels.tolist(), hits.rows.tolist(), strict=True):
                assert label not in found
                found[label] = (int(hits.segment.at_us[row]), int(hits.segment.classes[row]))
        kept = self.all[len(self.all) - len(self.table) :]
        for at, key in enumerate(keys):
            last = next(((when, class_) for of, when, class_ in reversed(kept) if of == key), None)
            expected = last if last is not None and last[0] >= self.now_us - TTL_US else None
            assert found.get(at) == expected

    @invariant()
    def no_more_than_allowed(self) -> None:
        assert len(self.table) <= 100
        young = sum(when >= self.now_us - TTL_US for _, when, _ in self.all)
        assert len(self.table) >= min(young, 100 - 100 // 8)


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
@settings(max_examples=20)
def test_memory_is_bounded_under_any_stream(portions):
    tables = Tables(Labels(rows_max=20_000, bytes_max=1 << 20))
    for number, size in enumerate(portions):
        tables.remember(f"m{number % 7}", rows_of(list(range(size)), number))
        assert tables.bytes_total <= (1 << 20) + ROW_BYTES * 2048
        assert all(len(tables.live(f"m{model}")) <= 20_000 for model in range(7))


def test_the_oldest_of_all_models_go_first_where_memory_is_short():
    tables = Tables(Labels(rows_max=1 << 20, bytes_max=1 << 20))
    tables.remember("old", rows_of(list(range(1000)), 1))
    for at in range(40):
        tables.remember("new", rows_of(list(range(1000)), 2 + at))
    assert len(tables.live("old")) == 0
    assert len(tables.live("new")) > 5000


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=8), st.integers(1, 5)),
        min_size=1,
        max_size=30,
        unique_by=lambda each: each[0],
    )
)
def test_every_row_of_every_request_has_a_key_of_its_own(requests):
    ids = [id_ for id_, _ in requests]
    sizes = np.array([size for _, size in requests])
    keys = row_keys(np.repeat(keys_of(ids, len(ids)), sizes), sizes)
    assert len(set(keys.tolist())) == sizes.sum()


@pytest.mark.parametrize(
    "text", ["a", "digits-17", 'with "quotes"', "back\\slash", "naïve", "new\nline", "雪"]
)
def test_an_id_is_spelt_as_requests_have_it(text):
    import orjson

    from serving.config import Limits
    from serving.document import read

    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    declared = read(orjson.loads(orjson.dumps({"id": text, "inputs": [tensor]})), Limits())
    assert wire_id(text) == declared.id


def test_marks_of_versions_stay_apart_within_a_segment():
    table = Answers(1000, TTL_US)
    other = deciding(classifier(8))
    table.add(rows_of([1], 0))
    table.add(rows_of([2], 0, Mark("8", 3, other)))
    table.add(rows_of([3], 0, Mark("7", 4, DECISION)))
    (hits,) = table.find(np.array([1, 2, 3]), 0)
    marks = [hits.segment.marks_of[hits.segment.marks[row]] for row in hits.rows]
    assert [(mark.version, mark.revision) for mark in marks] == [("7", 3), ("8", 3), ("7", 4)]
