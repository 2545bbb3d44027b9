"""Evidence is what every replica told last, gone ones included, each once: whatever is lost, late or repeated."""

from __future__ import annotations

import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.evidence.counts import BITMAP_BYTES, Counts
from serving.private import NotPrivate
from serving.rollout.evidence import EPOCHS_MAX, SAVE_S, Cell, Evidence, Pile
from serving.rollout.store import FOLDER, Store

CELL = Cell(3, "9", "split")


def bitmap(*slots: int) -> bytes:
    return sum(1 << slot for slot in set(slots)).to_bytes(BITMAP_BYTES, "little")


@st.composite
def growing(draw):
    """Return what one replica counted in one cell at some moments, each no less than before."""
    told = [Counts()]
    slots: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        slots += draw(st.lists(st.integers(0, 99), min_size=1, max_size=3))
        wrong = draw(st.integers(0, 5))
        told.append(
            told[-1]
            + Counts(
                requests=draw(st.integers(1, 100)),
                late=(draw(st.integers(0, 9)), 0, 0),
                labelled=wrong,
                wrong=wrong,
                fp={draw(st.sampled_from(["one", "two"])): wrong} if wrong else {},
                held={"failure": len(slots)},
                callers={"failure": bitmap(*slots)},
            )
        )
    return told[1:]


tellings = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(3, 5), st.sampled_from(["7", "9"])),
    growing(),
    min_size=1,
    max_size=6,
)


def rows(cell: Cell, counts: Counts, model: str = "fraud") -> list[list[object]]:
    return [[model, *cell, json.loads(json.dumps(counts.to_json()))]]


@given(tellings, st.randoms(use_true_random=False))
def test_evidence_is_the_sum_of_what_each_replica_told_last_in_whatever_order(told, random):
    pile, every = Pile(), []
    expected: dict[Cell, Counts] = {}
    for (replica, epoch, version), series in told.items():
        cell = Cell(epoch, version, "split")
        every += [(replica, cell, counts) for counts in series] * random.randint(1, 2)
        expected[cell] = expected.get(cell, Counts()) + series[-1]
    random.shuffle(every)
    for replica, cell, counts in every:
        pile.take(replica, cell, counts)
    assert pile.total == expected


@given(tellings)
def test_what_is_read_again_goes_on_where_it_was(told):
    pile = Pile()
    for (replica, epoch, version), series in told.items():
        for counts in series[:-1]:
            pile.take(replica, Cell(epoch, version, "split"), counts)
    again = Pile.from_json(json.loads(json.dumps(pile.to_json("fraud"))))
    assert again.total == pile.total
    for each in (pile, again):
        for (replica, epoch, version), series in told.items():
            for counts in series:
                each.take(replica, Cell(epoch, version, "split"), counts)
    assert again.total == pile.total


def test_after_a_control_died_nothing_is_lost_and_nothing_counted_twice(tmp_path):
    first = Evidence(tmp_path)
    first.take("gone", rows(CELL, Counts(requests=10, failed=1)))
    first.take("stays", rows(CELL, Counts(requests=20)))
    first.remember("fraud", {"first": 3})
    first.save()
    first.take("stays", rows(CELL, Counts(requests=25, failed=2)))  # And dies before it is written down.
    second = Evidence(tmp_path)
    assert second.of("fraud")[CELL] == Counts(requests=30, failed=1)
    assert second.marks("fraud") == {"first": 3}
    second.take("stays", rows(CELL, Counts(requests=26, failed=2)))
    second.take("new", rows(CELL, Counts(requests=1)))
    assert second.of("fraud")[CELL] == Counts(requests=37, failed=3)


def test_what_was_taken_out_is_not_changed_by_what_comes(tmp_path):
    evidence = Evidence(tmp_path)
    evidence.take("a", rows(CELL, Counts(requests=1)))
    before = evidence.of("fraud")
    evidence.take("a", rows(CELL, Counts(requests=2)))
    assert before[CELL].requests == 1


def test_what_is_of_epochs_before_a_rollout_is_no_part_of_it(tmp_path):
    evidence = Evidence(tmp_path)
    evidence.take("a", rows(CELL, Counts(requests=1)))
    evidence.forget("fraud", 4)
    assert evidence.of("fraud") == {}
    evidence.take("a", rows(CELL, Counts(requests=2)))
    evidence.take("a", rows(Cell(4, "9", "split"), Counts(requests=3)))
    assert evidence.of("fraud") == {Cell(4, "9", "split"): Counts(requests=3)}
    evidence.forget("fraud", 2)
    assert len(evidence.of("fraud")) == 1


def test_of_too_many_epochs_the_latest_are_kept():
    pile = Pile()
    for epoch in range(EPOCHS_MAX + 10):
        pile.take("a", Cell(epoch, "9", "split"), Counts(requests=1))
    assert sorted(cell.epoch for cell in pile.total) == list(range(10, EPOCHS_MAX + 10))


def test_what_cannot_be_understood_is_left_out(tmp_path):
    evidence = Evidence(tmp_path)
    evidence.take("a", [["fraud", *CELL, {"requests": 1, "tomorrow": 2}], *rows(CELL, Counts(requests=3))])
    assert evidence.of("fraud")[CELL].requests == 3


def test_what_did_not_change_is_not_written_and_the_rest_not_all_the_time(tmp_path):
    now_s = [100.0]
    evidence = Evidence(tmp_path, lambda: now_s[0])
    evidence.take("a", rows(CELL, Counts(requests=1)))
    evidence.save()
    (path,) = (tmp_path / FOLDER).iterdir()
    written = path.stat().st_ino
    evidence.take("a", rows(CELL, Counts(requests=2)))
    evidence.save()
    assert path.stat().st_ino == written
    now_s[0] += SAVE_S
    evidence.save()
    assert path.stat().st_ino != written
    written = path.stat().st_ino
    now_s[0] += SAVE_S
    evidence.save()
    assert path.stat().st_ino == written
    evidence.take("a", rows(CELL, Counts(requests=3)))
    evidence.save()
    evidence.take("a", rows(CELL, Counts(requests=4)))
    evidence.save(final=True)
    assert Evidence(tmp_path).of("fraud")[CELL].requests == 4


def test_what_is_kept_is_for_its_owner_alone_and_what_is_not_is_refused(tmp_path):
    evidence = Evidence(tmp_path)
    evidence.take("a", rows(CELL, Counts(requests=1)))
    evidence.save()
    (path,) = (tmp_path / FOLDER).iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert Evidence(tmp_path).of("fraud") == {}
    (tmp_path / FOLDER).chmod(0o755)
    with pytest.raises(NotPrivate):
        Evidence(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": "fraud", "told": 1}'])
def test_a_file_that_is_broken_does_not_keep_a_control_from_starting(tmp_path, content):
    store = Store(tmp_path)
    store.write("fraud", {})
    (path,) = store.folder.iterdir()
    path.write_text(content)
    assert Evidence(tmp_path).of("fraud") == {}


def test_what_is_dropped_is_gone(tmp_path):
    evidence = Evidence(tmp_path)
    evidence.take("a", rows(CELL, Counts(requests=1)))
    evidence.save()
    evidence.drop("fraud")
    evidence.save(final=True)
    assert list((tmp_path / FOLDER).iterdir()) == []
    assert evidence.of("fraud") == {}
