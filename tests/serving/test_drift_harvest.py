from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Drift as Settings
from serving.drift.build import build
from serving.drift.capture import Capture
from serving.drift.drift import Drift
from serving.drift.harvest import STALLED_S, Harvest, Terms
from serving.drift.store import Store
from tests.counted import MADE_AT, Counted, look, normal, profile
from tests.serving.test_drift_control import START_US, a_folder

TERMS = Terms("m", "7", 100)
LOOK = look()


def begun(folder: Path, wanted: int = 100) -> Harvest:
    captures = folder / "captures"
    captures.mkdir(mode=0o700, exist_ok=True)
    return Harvest.begin(captures, Terms("m", "7", wanted))


def into(harvest: Harvest) -> Path:
    return Path(harvest.ask()["into"])


def capture(harvest: Harvest, number: int, rows: np.ndarray) -> Capture:
    """Write rows as a replica does that was asked for all of them."""
    made = Capture(str(into(harvest) / f"{number}.npy"), harvest.terms.wanted)
    made.take(rows)
    return made


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(0, 11))
def test_rows_of_all_replicas_make_one_profile_whoever_died_in_the_middle_of_a_row(sizes, torn):
    with a_folder() as folder:
        harvest = begun(folder)
        looks = dict.fromkeys(range(len(sizes)), LOOK)
        parts = [normal(size, number) for number, size in enumerate(sizes)]
        for number, part in enumerate(parts):
            if len(part):
                capture(harvest, number, part)
                path = into(harvest) / f"{number}.npy.part"
                if path.exists() and torn:
                    with path.open("ab") as file:
                        file.write(b"x" * torn)
        for second in range(2):
            harvest.look(looks, sum(sizes), second)
        assert harvest.rows == sum(sizes)
        assert harvest.is_ripe == (sum(sizes) >= 100)
        if not harvest.is_ripe:
            return
        rows = np.concatenate(parts)[:100]
        made = harvest.build(looks, "d", 64, MADE_AT)
        expected = build(
            "m", "7", "d", [LOOK], [{"x": rows}], categories_max=64, made_at=MADE_AT, source=made.source
        )
        assert (made.n, made.hash, made.source) == (100, expected.hash, "100 live requests")


def test_it_is_enough_only_at_the_second_look_so_that_no_tensor_has_yet_to_begin(tmp_path):
    harvest, looks = begun(tmp_path), {1: LOOK, 2: look("y")}
    capture(harvest, 1, normal(100))
    harvest.look(looks, 100, 0)
    assert not harvest.is_ripe
    capture(harvest, 2, normal(40))
    harvest.look(looks, 200, 1_000_000)
    assert (harvest.rows, harvest.is_ripe) == (40, False)


def test_an_input_that_is_seldom_sent_is_not_waited_for_for_ever(tmp_path):
    harvest, looks = begun(tmp_path), {1: LOOK, 2: look("y")}
    capture(harvest, 1, normal(100))
    capture(harvest, 2, normal(3))
    told = [harvest.look(looks, 100 + second, second * 1_000_000) for second in range(int(STALLED_S) + 3)]
    assert harvest.is_ripe
    assert not any(told)
    assert {name: each.n for name, each in harvest.build(looks, "", 64, MADE_AT).tensors.items()} == {
        "x": 100,
        "y": 3,
    }


def test_replicas_are_asked_anew_if_files_stop_to_grow_although_rows_are_counted(tmp_path):
    harvest, looks = begun(tmp_path), {1: LOOK}
    first = harvest.ask()
    capture(harvest, 1, normal(60))
    told = [harvest.look(looks, 60 + second, second * 1_000_000) for second in range(int(STALLED_S) + 3)]
    [[end, again]] = [each for each in told if each]
    assert (end, again["rows"], again["into"] != first["into"]) == ({**first, "rows": 0}, 100, True)
    capture(harvest, 1, normal(50))
    for second in range(2):
        harvest.look(looks, 200, (100 + second) * 1_000_000)
    assert (harvest.rows, harvest.is_ripe) == (110, True)


def test_nobody_is_asked_anew_while_there_are_no_requests(tmp_path):
    harvest = begun(tmp_path)
    assert not any(harvest.look({1: LOOK}, 0, hour * 3600 * 1_000_000) for hour in range(1, 5))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr'", bytes(200)])
def test_a_file_whose_head_is_not_there_yet_has_no_rows(tmp_path, content):
    harvest = begun(tmp_path)
    (into(harvest) / "1.npy.part").write_bytes(content)
    (into(harvest) / "what.npy").write_bytes(content)
    harvest.look({1: LOOK}, 0, 0)
    assert harvest.rows == 0


def test_a_control_that_starts_again_goes_on_and_one_that_cannot_removes_what_is_there(tmp_path):
    store = Store(tmp_path)
    drift, counted = Drift(store, Settings(), 1.0, START_US), Counted(1, profile())
    drift.put(profile(), START_US)
    counted.count(normal(1))
    drift.note(counted.told("r1"), START_US)
    [asked] = drift.freeze(TERMS)
    capture(drift.harvests["m", "7"], 1, normal(100))
    (store.captures / "strange").mkdir(mode=0o700)
    drift.evaluate(["r1"], START_US)
    drift.save(START_US, at_once=True)
    drift = Drift(store, Settings(), 1.0, START_US)
    assert not (store.captures / "strange").exists()
    harvest = drift.harvests["m", "7"]
    assert (harvest.terms, harvest.ask()) == (TERMS, asked)
    drift.digests = {("m", "7"): "d"}
    for second in range(3):
        assert drift.look_after_harvests(START_US + second) == []
    [ripe] = drift.ripe()
    assert drift.ripe() == []
    made = ripe.build(START_US)
    assert (made.n, made.digest) == (100, "d")
    assert drift.end_harvest(("m", "7")) == [{**asked, "rows": 0}]
    assert list(store.captures.iterdir()) == []


def test_another_freeze_takes_the_place_of_the_one_before(tmp_path):
    drift, counted = Drift(Store(tmp_path), Settings(), 1.0, START_US), Counted(1, profile())
    drift.put(profile(), START_US)
    drift.note(counted.told("r1"), START_US)
    [first] = drift.freeze(TERMS)
    end, second = drift.freeze(Terms("m", "7", 7))
    assert (end, second["rows"]) == ({**first, "rows": 0}, 7)
    assert len(list(drift.store.captures.iterdir())) == 1
