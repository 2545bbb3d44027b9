"""Counts and pages: they add up in any order, count a caller once, and know what an error counts as."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.table import WHOLE_BP
from serving.errors import HTTP_STATUS, Cancelled, Expired, Failed, Invalid, Overloaded, Unavailable
from serving.evidence import book as module
from serving.evidence.book import Book
from serving.evidence.counts import (
    BITMAP_BYTES,
    FAILURE,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    LATENCIES,
    METRICS,
    OF_A_CLASS,
    REFUSED,
    REJECTED,
    REQUEST,
    TIMEOUT,
    WRONG,
    Counts,
    either,
)
from serving.evidence.page import CLASSES_MAX, REST, Arm, Page
from serving.evidence.terms import Terms
from tests.slow import slow

few = st.integers(0, 1000)
names = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 50))
slots = st.integers(-1, WHOLE_BP - 1)


def bitmap(which: set[int]) -> bytes:
    return sum(1 << slot for slot in which).to_bytes(BITMAP_BYTES, "little")


@st.composite
def counted(draw: st.DrawFn) -> Counts:
    callers = draw(
        st.dictionaries(
            st.sampled_from([FAILURE, TIMEOUT, "false-positive:a"]),
            st.sets(st.integers(0, WHOLE_BP - 1), min_size=1, max_size=5).map(bitmap),
        )
    )
    plain = ("requests", "failed", "timeout", "rejected", "refused", "nan", "scored", "unsure", "timed")
    return Counts(
        **{name: draw(few) for name in (*plain, "labelled", "wrong")},
        late=(draw(few), draw(few), draw(few)),
        fp=draw(names),
        fn=draw(names),
        held=draw(st.dictionaries(st.sampled_from([FAILURE, TIMEOUT]), st.integers(1, 50))),
        callers=callers,
    )


@given(counted(), counted(), counted())
@slow
def test_counts_add_up_in_any_order(one: Counts, other: Counts, third: Counts) -> None:
    assert one + other == other + one
    assert (one + other) + third == one + (other + third)
    assert one + Counts() == one


@given(counted())
def test_counts_come_back_from_their_json(one: Counts) -> None:
    assert Counts.from_json(one.to_json()) == one


@pytest.mark.parametrize("document", [{"late": [1, 2]}, {"callers": {"failure": "AA=="}}, {"unheard": 1}])
def test_counts_of_another_release_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Counts.from_json(document)


def ended(error: BaseException, slot: int = -1) -> Counts:
    page = Page(Arm("m", 1, "8", "split"))
    page.end(error, slot)
    return page.counts()


@pytest.mark.parametrize(
    ("error", "metrics"),
    [
        (Failed("no"), {FAILURE}),
        (Unavailable("gone"), {FAILURE}),
        (RuntimeError("ours"), {FAILURE}),
        (Expired("late"), {FAILURE, TIMEOUT}),
        (Overloaded("full"), {REJECTED}),
        (Invalid("no such shape"), {REFUSED}),
        (Cancelled("left"), set()),
    ],
)
@pytest.mark.parametrize("slot", [-1, 77])
def test_an_error_s_class_says_what_it_counts_as(error: Exception, metrics: set[str], slot: int) -> None:
    counts = ended(error, slot)
    assert {metric for metric in METRICS if metric not in OF_A_CLASS and counts.events(metric)} == metrics
    assert counts.events(REQUEST) == bool(metrics)


def test_every_error_counts_as_one_thing() -> None:
    for each in HTTP_STATUS:
        counts = ended(each.__new__(each))
        kinds = counts.failed + counts.timeout + counts.rejected + counts.refused
        assert kinds == counts.requests == (each is not Cancelled), each


def test_a_caller_with_a_thousand_failures_counts_once() -> None:
    page = Page(Arm("m", 1, "8", "split"))
    for _ in range(1000):
        page.end(Failed("no"), 4711)
    page.end(Failed("no"), 4712)
    page.end(Failed("no"))
    counts = page.counts()
    assert (counts.times(FAILURE), counts.events(FAILURE), counts.events(REQUEST)) == (1002, 3, 3)
    assert counts.events(FAILURE, seen=bitmap({4711, 5})) == 2
    assert counts.callers_of(FAILURE) == bitmap({4711, 4712})
    elsewhere = Page(Arm("m", 1, "8", "split"))
    elsewhere.end(Failed("no"), 4711)
    assert (counts + elsewhere.counts()).events(FAILURE) == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), slots), max_size=60))
def test_labels_count_as_one_by_one(labels: list[tuple[str, str, int]]) -> None:
    page = Page(Arm("m", 1, "8", "split"))
    for predicted, actual, slot in labels:
        page.label(predicted, actual, slot)
    counts = page.counts()

    def units(having: list[int]) -> int:
        return having.count(-1) + len(set(having) - {-1})

    assert counts.labelled == len(labels)
    assert counts.events(WRONG) == units([slot for p, a, slot in labels if p != a])
    for each in "abc":
        assert counts.fp.get(each, 0) == sum(p == each != a for p, a, _ in labels)
        false_positive = [slot for p, a, slot in labels if p == each != a]
        assert counts.events(FALSE_POSITIVE, each) == units(false_positive)
        assert counts.events(FALSE_NEGATIVE, each) == units([s for p, a, s in labels if a == each != p])


def test_how_many_classes_are_told_apart_is_bounded() -> None:
    page = Page(Arm("m", 1, "8", "split"))
    for number in range(CLASSES_MAX * 2):
        page.label(str(number), "other")
    counts = page.counts()
    assert len(counts.fp) == CLASSES_MAX + 1
    assert counts.fp[REST] == CLASSES_MAX
    assert counts.fn == {"other": CLASSES_MAX * 2}


@given(st.lists(st.tuples(slots, st.booleans(), st.booleans()), min_size=1, max_size=80), st.data())
def test_answers_count_alike_however_they_are_cut(
    answers: list[tuple[int, bool, bool]], data: st.DataObject
) -> None:
    whole, cut = Page(Arm("m", 1, "8", "split")), Page(Arm("m", 1, "8", "split"))

    def answer(page: Page, part: list[tuple[int, bool, bool]]) -> None:
        late, odd = (np.array([each[at] for each in part], bool) for at in (1, 2))
        flags = [("nan", odd if odd.any() else None), *[(metric, late) for metric in LATENCIES]]
        page.answer(len(part), flags, np.array([slot for slot, _, _ in part], np.int64))

    answer(whole, answers)
    while answers:
        size = data.draw(st.integers(1, len(answers)))
        answer(cut, answers[:size])
        answers = answers[size:]
    assert whole.counts() == cut.counts()


def test_bitmaps_are_either_s() -> None:
    assert either(bitmap({1, 9_999}), b"") == bitmap({1, 9_999})
    assert either(b"", b"") == bytes(BITMAP_BYTES)


def test_a_book_tells_what_changed_and_all_of_it_to_who_heard_nothing() -> None:
    book = Book()
    first, second = book.page("m", 5, "8", "split"), book.page("m", 5, "7", "split")
    told: dict[Arm, int] = {}
    assert book.news(told) == []
    first.end(Failed("no"))
    assert book.news(told) == [["m", 5, "8", "split", {"requests": 1, "failed": 1}]]
    assert book.news(told) == []
    first.end(Failed("no"))
    second.end(Overloaded("full"))
    assert [each[4]["requests"] for each in book.news(told)] == [2, 1]
    assert len(book.news({})) == 2
    assert book.page("m", 5, "8", "split") is first


def test_pages_of_old_epochs_are_told_a_last_time_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EPOCHS_MAX", 3)
    book, told = Book(), {}
    pages = [book.page("m", epoch, "8", "split") for epoch in range(1, 4)]
    book.page("other", 1, "1", "split")
    for page in pages:
        page.end(Failed("no"))
    assert len(book.news(told)) == 3
    pages[0].end(Failed("no"))
    book.page("m", 9, "8", "split")
    assert book.news(told) == [["m", 1, "8", "split", {"requests": 2, "failed": 2}]]
    assert set(told) <= set(book.readings())
    assert {of.epoch for of in book.readings() if of.model == "m"} == {2, 3, 9}
    assert book.news({})
    assert book.dropped == 0


def test_pages_are_bounded_and_what_nobody_hears_of_is_counted_as_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAGES_MAX", 4)
    monkeypatch.setattr(module, "LEAVING_MAX", 2)
    book = Book()
    for number in range(10):
        book.page(f"m{number}", 1, "8", "split")
    assert len(book.readings()) == 6
    assert book.dropped == 4


def test_a_page_that_leaves_is_still_the_one_of_its_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EPOCHS_MAX", 1)
    book = Book()
    page = book.page("m", 1, "8", "split")
    book.page("m", 2, "8", "split")
    assert book.page("m", 1, "8", "split") is page


def test_terms_come_back_from_their_json_and_have_to_ascend() -> None:
    terms = Terms("m", frozenset({"7", "8"}), (1, 2, 3), 0.6, "y")
    assert Terms.from_json(terms.to_json()) == terms
    assert Terms.from_json({"model": "m", "versions": []}) == Terms("m", frozenset())
    with pytest.raises(ValueError, match="ascending"):
        Terms("m", frozenset(), (3, 2, 1))
