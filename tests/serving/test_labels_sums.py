"""Is what replicas counted neither lost nor counted twice, whoever dies and whatever is told again?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.confidence import rate_interval
from kernels.evalue import log_e_paired
from serving.config import Labels
from serving.labels import report, shown, sums
from serving.labels.joining import LIVE, SHADOW, Outcome
from serving.labels.pairs import Between, Pairs, told
from serving.labels.quality import Bin, Quality, Seen
from serving.labels.reading import LabelsReading, VersionLabels
from serving.labels.reckoning import Look, Reckoning, Standing
from serving.labels.store import Store
from serving.labels.sums import Sums
from serving.labels.verdict import given as put_together
from tests.labelling import label

KEY = ("m", "7", LIVE)


def quality(right: int, wrong: int) -> Quality:
    return Quality(
        classed=right + wrong,
        right=right,
        cells={(1, 1): right, (0, 1): wrong},
        bins={18: Bin(right + wrong, right, 900_000 * (right + wrong))},
        squared=right * 10_000 + wrong * 810_000,
        delay_us=1000 * (right + wrong),
        delays={100: right + wrong},
    )


def tell(to: Sums, source: str, answered: int, right: int, wrong: int, replica: str = "r0") -> None:
    """Tell what a process counted since it began."""
    pairs = told({Between("m", 3, "7", "8"): Pairs(right=right)})
    to.note(source, replica, [(KEY, asdict(Seen(answered)), quality(right, wrong).to_json())], pairs)


def known(of: Sums) -> tuple[int, int, int]:
    each = of.versions("m").get(("7", LIVE), VersionLabels())
    return each.seen.answered, each.quality.classed, each.quality.right


def copied(of: Any) -> Any:
    return type(of).from_json(json.loads(json.dumps(of.to_json())))


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), st.booleans()),
    max_size=30,
)


@given(STEPS)
def test_what_is_told_again_or_read_back_from_the_file_counts_once(steps):
    kept = Sums()
    counts = {source: [0, 0, 0] for source in "abc"}
    for source, answered, right, wrong, restart in steps:
        counts[source] = [a + b for a, b in zip(counts[source], (answered, right, wrong), strict=True)]
        for _ in range(2):
            tell(kept, source, *counts[source], replica=f"replica {source}")
        if restart:
            kept = copied(kept)
    total = [sum(each[at] for each in counts.values()) for at in range(3)]
    assert known(kept) == (total[0], total[1] + total[2], total[1])


def test_a_replica_that_is_gone_stays_counted_and_its_late_word_adds_nothing():
    kept = Sums()
    tell(kept, "a", 10, 4, 1)
    kept.settle({}, 1.0)
    assert known(kept) == (10, 5, 4)
    kept.settle({}, 2.0 + sums.GONE_S)
    assert known(kept) == (10, 5, 4)
    tell(kept, "a", 12, 5, 1)
    assert known(kept) == (10, 5, 4)
    assert known(copied(kept)) == (10, 5, 4)


def test_one_that_comes_back_in_time_goes_on_where_it_was():
    kept = Sums()
    tell(kept, "a", 10, 4, 1)
    kept.settle({}, 1.0)
    tell(kept, "a", 12, 5, 1)
    kept.settle({"r0": "a"}, 2.0 + sums.GONE_S)
    kept.settle({}, 3.0 + sums.GONE_S)
    tell(kept, "a", 13, 5, 1)
    assert known(kept) == (13, 6, 5)


def test_another_process_of_the_same_name_is_another_one():
    kept = Sums()
    tell(kept, "a", 10, 4, 1)
    tell(kept, "b", 3, 1, 0)
    kept.settle({"r0": "b"}, 1.0)
    kept.settle({"r0": "b"}, 2.0 + sums.GONE_S)
    assert known(kept) == (13, 6, 5)
    tell(kept, "a", 20, 9, 1)
    assert known(kept) == (13, 6, 5)


def test_however_many_processes_there_were_the_memory_is_bounded():
    kept = Sums()
    for at in range(300):
        tell(kept, f"source {at}", 2, 1, 0, replica=f"r{at}")
        kept.settle({f"r{at}": f"source {at}"}, float(at + 1))
    assert known(kept) == (600, 300, 300)
    assert len(kept._sources) <= sums.SOURCES_MAX + 1


def test_a_control_that_starts_goes_on_where_the_last_one_was(tmp_path):
    tmp_path.chmod(0o700)
    first = Reckoning(Labels(), tmp_path)
    first.open()
    first.take_in(
        Look(
            {"r0": "a"},
            {"a": ("r0", {KEY: (KEY, asdict(Seen(9)), quality(5, 1).to_json())}, {})},
            [("m", "7", ["zero", "one"])],
        )
    )
    first.lose("m", [("7", LIVE, "classes", 1.0)], 1)
    first.save(1)
    then = Reckoning(Labels(), tmp_path)
    documents = then.open()
    assert documents["m", "7", LIVE]["labels"] == 1
    assert then.standings()["m"].numbers() == {"7": {"answered": 9, "labelled": 6, "wrong": 1}}
    assert [each["name"] for each in then.report("m", "", 1)["versions"][0]["classes"]] == ["zero", "one"]


def test_a_file_that_cannot_be_read_is_told_and_begins_anew(tmp_path, caplog):
    tmp_path.chmod(0o700)
    Store(tmp_path).path.write_text("{}")
    Store(tmp_path).path.chmod(0o600)
    assert Reckoning(Labels(), tmp_path).open() == {}
    assert "quality_not_understood" in caplog.text


def test_the_report_says_what_a_count_by_hand_does():
    cells = {(0, 0): 90, (0, 1): 10, (1, 0): 5, (1, 1): 95}
    of = Quality(classed=200, right=185, cells=cells)
    said = report.version_said("7", LIVE, VersionLabels(Seen(1000), of), ("no", "yes"), None, 0.01)
    no, yes = said["classes"]
    assert (no["name"], no["labels"], no["answers"]) == ("no", 100, 95)
    assert (no["false_positive"]["count"], no["false_positive"]["of"]) == (5, 100)
    assert (yes["false_negative"]["rate"], yes["false_positive"]["rate"]) == (0.05, 0.1)
    low, high = rate_interval(10, 100, alpha=0.01)
    assert (yes["false_positive"]["low"], yes["false_positive"]["high"]) == (low, high)
    assert said["accuracy"]["rate"] == 0.925
    assert said["coverage"]["rate"] == 0.2


def test_what_has_no_label_is_not_called_good():
    said = report.version_said("7", LIVE, VersionLabels(Seen(1000)), (), None, 0.01)
    assert said["accuracy"] is None
    assert said["coverage"]["rate"] == 0.0
    assert said["calibration"] is None
    text = "\n".join(
        shown.quality(
            {"model": "m", "enabled": True, "alpha": 0.01, "versions": [said], "pairs": [], "events": []}
        )
    )
    assert "0 labels of 1,000 answers (0%)" in text
    assert "accuracy" not in text


def test_calibration_is_how_far_being_sure_and_being_right_are_apart():
    of = Quality(classed=10, right=6, bins={18: Bin(10, 6, 9_000_000)}, squared=6 * 10_000 + 4 * 810_000)
    said = report.version_said("7", LIVE, VersionLabels(Seen(10), of), (), None, 0.01)["calibration"]
    assert said["ece"] == pytest.approx(0.3)
    assert said["brier"] == pytest.approx((6 * 0.01 + 4 * 0.81) / 10)


def test_delays_are_told_within_a_thirty_second_of_themselves():
    import numpy as np

    from serving.labels.quality import of_classes

    delays_us = np.array([10_000_000] * 60 + [3_600_000_000] * 40)
    zeros = np.zeros(100, np.int64)
    of = of_classes(zeros, zeros.astype(np.int32), np.full(100, np.nan, np.float32), delays_us, 64)
    said = report.version_said("7", LIVE, VersionLabels(Seen(100), of), (), None, 0.01)["delay_s"]
    assert said["p50"] == pytest.approx(10, rel=1 / 32)
    assert said["p90"] == pytest.approx(3600, rel=1 / 32)


def test_pairs_say_which_of_two_versions_is_worse_on_the_same_requests():
    pairs = {Between("m", 3, "7", "8"): Pairs(80, 5, 3, 12), Between("m", 9, "7", "8"): Pairs(1, 0, 0, 0)}
    latest, first = report.pairs_said(pairs, "", 0.01)
    assert (latest["epoch"], first["labels"]) == (9, 100)
    assert first["evidence_worse"] == pytest.approx(log_e_paired(12, 3) / report.LN10)
    assert report.pairs_said(pairs, "9", 0.01) == []
    standing = Standing(pairs=pairs)
    assert standing.compared("8", "7") == Pairs(81, 5, 3, 12)
    assert standing.compared("8", "7", since_epoch=4) == Pairs(1, 0, 0, 0)


def test_of_a_label_counts_the_best_that_a_replica_says():
    labels = [label(name, 1) for name in "abcde"]
    said = put_together("m", labels, ["ujumu", "urumj"], ["r9"])
    assert said.counts == {Outcome.JOINED: 2, Outcome.REPEATED: 0, Outcome.MISFIT: 1, Outcome.UNMATCHED: 2}
    assert said.ids == {Outcome.MISFIT: ["d"], Outcome.UNMATCHED: ["a", "c"]}
    assert said.document()["missing"] == ["r9"]


def test_readings_of_replicas_add_up_and_survive_their_way():
    one = LabelsReading({KEY: Seen(5, 1, 2)}, {KEY: quality(2, 1)}, 5, 100)
    other = LabelsReading({("m", "8", SHADOW): Seen(1)}, {KEY: quality(1, 0)}, 1, 50)
    both = one + other
    assert both.quality[KEY] == quality(3, 1)
    assert (both.rows, both.bytes_total) == (6, 150)
    assert LabelsReading.from_json(json.loads(json.dumps(both.to_json()))) == both
