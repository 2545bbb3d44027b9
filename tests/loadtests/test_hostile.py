"""Does the judge of `make hostile` catch a gateway that is broken in just one way, and tell it from noise?"""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.bench import machine
from loadtests.hostile import report
from loadtests.hostile.__main__ import main
from loadtests.hostile.attacks import ATTACKS
from loadtests.hostile.gateway import serving
from loadtests.hostile.models import ECHO
from loadtests.hostile.promises import (
    DOUBT_MAX,
    GOODPUT_RATIO_MIN,
    GROWN_BYTES_MAX,
    P99_RATIO_MAX,
    PAIRS,
    PAIRS_MORE,
    PROMISES,
    Finding,
    beyond,
    doubt,
    judged,
)
from loadtests.hostile.siege import Pace, tried
from loadtests.hostile.trial import Round, Trial

P99, GOODPUT, ANSWERED, GROWS, BACK = PROMISES
NAMES = {each.name: each for each in ATTACKS}
GOOD = Trial(
    "an attack",
    "in a test",
    overload=False,
    calm=[Round({"good": 1000}, 1.0, 1000.0)] * PAIRS,
    stormy=[Round({"good": 1000}, 1.05, 1000.0)] * PAIRS,
    grown_bytes=50 << 20,
    left_bytes=3 << 20,
)
FLOOD = replace(
    GOOD,
    overload=True,
    calm=[Round({"good": 9000}, 4.0, 9000.0)] * PAIRS,
    stormy=[Round({"good": 900, "refused": 100}, 90.0, 900.0, 7800.0)] * PAIRS,
)


def stormy(trial: Trial, **fates: int) -> Trial:
    return replace(trial, stormy=[*trial.stormy[:-1], replace(trial.stormy[-1], fates=fates)])


BROKEN = {
    "p99 rises": (replace(GOOD, stormy=[Round({"good": 1000}, 1.2)] * PAIRS), P99),
    "nothing is answered": (replace(GOOD, stormy=[Round({}, None)] * PAIRS), P99),
    "answers are lost": (stormy(GOOD, good=999, lost=1), ANSWERED),
    "answers are mixed": (stormy(GOOD, good=999, mixed=1), ANSWERED),
    "answers are errors": (stormy(GOOD, good=999, error=1), ANSWERED),
    "answers are late": (stormy(GOOD, good=999, late=1), ANSWERED),
    "good clients are refused without need": (stormy(GOOD, good=999, refused=1), ANSWERED),
    "a flood is refused without Retry-After": (stormy(FLOOD, good=999, bare=1), ANSWERED),
    "a flooder is refused without Retry-After": (replace(FLOOD, seen={"200": 9, "bare": 2}), ANSWERED),
    "a flooder gets another's answer": (replace(FLOOD, seen={"mixed": 1}), ANSWERED),
    "a flood loses answers": (stormy(FLOOD, good=999, lost=1), ANSWERED),
    "a flood costs goodput": (
        replace(FLOOD, stormy=[replace(each, others_per_s=6000.0) for each in FLOOD.stormy]),
        GOODPUT,
    ),
    "the gateway dies": (replace(GOOD, died=True), ANSWERED),
    "memory grows": (replace(GOOD, grown_bytes=GROWN_BYTES_MAX + 1), GROWS),
    "memory does not come back": (replace(GOOD, back_s=None, left_bytes=200 << 20), BACK),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_gateway_that_is_broken_in_one_way_breaks_just_that_promise(how):
    trial, promise = BROKEN[how]
    [line] = judged(trial, Finding.BROKEN)
    assert line.startswith(f"an attack: {promise}: ")
    assert list(judged(trial, Finding.OPEN)) == []


@pytest.mark.parametrize("trial", [GOOD, FLOOD])
def test_a_gateway_without_a_fault_breaks_none(trial):
    assert list(judged(trial, Finding.BROKEN)) == list(judged(trial, Finding.OPEN)) == []


def test_noise_that_reaches_beyond_the_bound_is_open_and_not_broken():
    rounds = [Round({"good": 1000}, p99) for p99 in (1.3, 0.7, 1.2, 1.4, 0.9)]
    noisy = replace(GOOD, stormy=rounds)
    assert list(judged(noisy, Finding.BROKEN)) == []
    [line] = judged(noisy, Finding.OPEN)
    assert P99 in line and "1.20 times (0.70 to 1.40), 5 pairs" in line


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=15), st.floats(0.5, 2))
def test_a_bound_is_broken_only_by_a_median_beyond_it_and_by_few_pairs_never(ratios, bound):
    found = beyond(ratios, bound, above=True)
    if found is not Finding.KEPT:
        assert statistics.median(ratios) > bound or len(ratios) % 2 == 0
        assert 2 * sum(each > bound for each in ratios) > len(ratios)
    if len(ratios) < PAIRS:
        assert found is not Finding.BROKEN
    assert beyond([1 / each for each in ratios], 1 / bound, above=False) in (
        found,
        Finding.KEPT,
        Finding.OPEN,
    )


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=15))
def test_pairs_that_are_worse_never_make_a_better_finding(ratios):
    order = list(Finding)
    worse = [each * 1.5 for each in ratios]
    before, after = (beyond(each, P99_RATIO_MAX, above=True) for each in (ratios, worse))
    assert order.index(after) >= order.index(before)


def test_five_pairs_of_five_are_enough_and_nine_of_eleven():
    assert doubt(PAIRS, PAIRS) <= DOUBT_MAX < doubt(PAIRS - 1, PAIRS)
    assert doubt(9, PAIRS + PAIRS_MORE) <= DOUBT_MAX < doubt(8, PAIRS + PAIRS_MORE)


def test_a_gateway_on_the_bound_is_called_broken_no_more_often_than_said():
    """The rule as it is applied: more pairs only where the first are suspicious, and judged all together."""
    rng, broken = random.Random(7), 0
    for _ in range(20_000):
        ratios = [P99_RATIO_MAX * rng.lognormvariate(0, 0.3) for _ in range(PAIRS)]
        if beyond(ratios, P99_RATIO_MAX, above=True) is not Finding.KEPT:
            ratios += [P99_RATIO_MAX * rng.lognormvariate(0, 0.3) for _ in range(PAIRS_MORE)]
        broken += beyond(ratios, P99_RATIO_MAX, above=True) is Finding.BROKEN
    assert broken / 20_000 <= DOUBT_MAX


def test_goodput_counts_what_the_flood_was_rightly_answered():
    assert FLOOD.ratio == pytest.approx(8700 / 9000)
    assert FLOOD.ratio > GOODPUT_RATIO_MIN


def test_what_was_measured_is_told_as_json_and_as_a_table(tmp_path):
    rows = [report.document(each) for each in (GOOD, FLOOD, BROKEN["answers are lost"][0])]
    report.write(tmp_path / "hostile.json", "a machine", rows)
    told = json.loads((tmp_path / "hostile.json").read_text())
    assert told["ok"] is False and len(told["broken"]) == 1
    assert told["attacks"][0]["ratio"] == 1.05
    lines = report.table(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert (tmp_path / "hostile.md").read_text().count("\n| ") == 5


def test_the_attacks_are_listed_each_by_a_name_of_its_own(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ATTACKS) == len(NAMES)


@pytest.mark.e2e
def test_a_real_gateway_is_cleared_and_one_with_a_limit_that_is_too_tight_is_caught(tmp_path: Path):
    """A thousand connections on which nothing is said leave room for good ones, unless 40 are all there are."""
    pace = Pace(rate=200, seconds=0.4, pairs=1, pairs_more=0)
    found = {}
    for how, limits in {"sound": {}, "tight": {"connections_max": 40}}.items():
        with serving(tmp_path, machine.cores(), {"limits": limits}, [ECHO]) as gateway:
            trial = tried(gateway, machine.cores(), NAMES["half-open"], pace)
        assert trial.fates.total() == 80
        found[how] = [line for line in judged(trial, Finding.BROKEN) if ANSWERED in line]
    assert found["sound"] == []
    [line] = found["tight"]
    assert "refused" in line or "lost" in line
