"""The promises of a load test: how they are read, what is measured, and that none is broken unseen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.slo.promise import EACH, TOGETHER, Promise, Quantity, Slo, SloError, parse, read
from loadtests.slo.reading import Cell, Reading, Readings
from loadtests.slo.verdict import checks, measure, untested, verdict
from tests.slow import slow

PERCENTILES = [each for each in Quantity if each.percentile is not None]


def reading(*ms: float, errors: int = 0, stale: int = 0) -> Reading:
    made = Reading(len(ms) + errors, errors, stale)
    for each in ms:
        made.histogram.record(round(each * 1e6))
    return made


def readings(cells: dict[tuple[str, str, str], Reading], **phases_s: float) -> Readings:
    named = {phase: 1.0 for _, _, phase in cells}
    return Readings({Cell(*at): each for at, each in cells.items()}, named | phases_s)


def promise(*places: str, **bounds: float) -> Slo:
    return Slo((Promise(*places, bounds={Quantity(name): each for name, each in bounds.items()}),))


GOOD = readings({("m", "7", "steady"): reading(*[1.0] * 200), ("m", "8", "steady"): reading(*[2.0] * 1000)})


# Laws

times = st.lists(st.floats(0.05, 5000), min_size=1, max_size=60)


@given(times, st.floats(1.01, 100))
def test_whatever_was_measured_a_promise_below_it_is_broken_and_one_above_it_is_kept(ms, factor):
    found = readings({("m", "1", "p"): reading(*ms)})
    for quantity in PERCENTILES:
        measured = measure(quantity, Cell("m", "1", "p"), found)
        assert verdict(promise("m", "1", "p", **{quantity: measured / factor}), found)
        assert not verdict(promise("m", "1", "p", **{quantity: measured * factor}), found)


@given(times, st.sampled_from(PERCENTILES))
def test_a_percentile_is_a_time_that_was_measured_to_three_digits(ms, quantity):
    assert quantity.percentile is not None
    rank = max(1, math.ceil(len(ms) * quantity.percentile / 100 - 1e-9))
    exact = sorted(ms)[rank - 1]
    measured = measure(quantity, Cell("m", "1", "p"), readings({("m", "1", "p"): reading(*ms)}))
    assert measured == pytest.approx(exact, rel=2e-3, abs=2e-3)


@given(times, times)
def test_all_together_is_what_would_have_been_read_in_one_place(some, more):
    apart = readings({("m", "1", "p"): reading(*some), ("m", "2", "q"): reading(*more)})
    at_once = readings({("m", "1", "p"): reading(*some, *more)})
    everything = Cell(TOGETHER, TOGETHER, TOGETHER)
    for quantity in (*PERCENTILES, Quantity.ERRORS, Quantity.STALE, Quantity.ANSWERS):
        assert measure(quantity, everything, apart) == measure(quantity, everything, at_once)


@given(st.integers(1, 500), st.integers(0, 500))
def test_one_error_more_than_was_promised_breaks_the_promise(right, errors):
    found = readings({("m", "1", "p"): reading(*[1.0] * right, errors=errors)})
    share = errors / (right + errors)
    assert not verdict(promise(error_rate=share), found)
    assert not errors or verdict(promise(error_rate=(errors - 0.5) / (right + errors)), found)


@given(st.integers(1, 50))
@slow
def test_a_version_of_its_own_is_seen_however_many_answers_of_others_there_are(times_more):
    cells = {("m", "7", "p"): reading(500.0), ("m", "8", "p"): reading(*[1.0] * 100 * times_more)}
    assert not verdict(promise(p95_ms=10), readings(cells))
    (broken,) = verdict(promise(TOGETHER, EACH, p95_ms=10), readings(cells))
    assert broken.at.version == "7"


# Each checker catches what it is for


@pytest.mark.parametrize(
    ("broken", "slo", "line"),
    [
        (
            reading(*[1.0] * 40, *[90.0] * 60),
            promise(p50_ms=50),
            "all models, all phases: p50 90 ms; promised",
        ),
        (reading(*[1.0] * 94, *[90.0] * 6), promise(p95_ms=50), "p95 90 ms; promised at most 50 ms"),
        (reading(*[1.0] * 98, *[90.0] * 2), promise(p99_ms=50), "p99 90 ms"),
        (reading(*[1.0] * 998, *[501.0] * 2), promise(p999_ms=500), "p99.9 501 ms"),
        (reading(*[1.0] * 95, errors=5), promise(error_rate=0.04), "error rate 5 %; promised at most 4 %"),
        (reading(*[1.0] * 99, stale=1), promise(stale=0), "stale answers 1; promised at most 0"),
        (reading(*[1.0] * 99), promise(throughput_min=100), "throughput 99/s; promised at least 100/s"),
        (reading(*[1.0] * 99), promise(answers_min=100), "requests 99; promised at least 100"),
    ],
    ids=lambda each: next(iter(each.promises[0].bounds)) if isinstance(each, Slo) else "",
)
def test_a_promise_that_is_broken_has_one_line(broken, slo, line):
    (found,) = verdict(slo, readings({("m", "1", "p"): broken}))
    assert line in found.line
    assert "\n" not in found.line


def test_a_gateway_that_keeps_everything_breaks_nothing():
    every = {**dict.fromkeys(PERCENTILES, 5.0), "error_rate": 0, "stale": 0, "throughput_min": 1000}
    assert verdict(promise(**every), GOOD) == []


def test_errors_do_not_make_a_gateway_fast():
    found = readings({("m", "", "p"): reading(errors=900), ("m", "1", "p"): reading(*[80.0] * 100)})
    assert [each.quantity for each in verdict(promise(p50_ms=50, error_rate=1), found)] == [Quantity.P50]


def test_a_gateway_that_answers_nothing_keeps_no_promise_of_time():
    found = readings({("m", "", "p"): reading(errors=10)})
    (broken,) = verdict(promise(p99_ms=1000), found)
    assert math.isnan(broken.measured)
    assert broken.line.endswith("no right answer to measure; promised at most 1000 ms")


def test_a_phase_without_a_request_keeps_no_promise():
    (broken,) = verdict(promise(TOGETHER, TOGETHER, EACH, p99_ms=10), readings(dict(GOOD.cells), hung=1.0))  # type: ignore[arg-type]
    assert broken.line == "all models, hung: requests 0; promised at least 1"


def test_a_version_that_is_named_and_never_answered_keeps_no_promise():
    (broken,) = verdict(promise("m", "9", p99_ms=10), GOOD)
    assert broken.line == "m@9, all phases: requests 0; promised at least 1"


def test_what_is_promised_of_a_phase_that_was_not_is_untested_and_neither_kept_nor_broken():
    slo = promise("m", "7", "kill", p99_ms=10)
    assert checks(slo, GOOD) == []
    assert untested(slo, GOOD) == ["kill"]


# What counts where


def test_a_phase_that_is_named_has_its_own_bound_and_the_others_those_of_each():
    slo = parse(
        '[[promise]]\nphase = "each"\np99_ms = 10\nerror_rate = 0\n[[promise]]\nphase = "kill"\nerror_rate = 0.5\n'
    )
    cells = {("m", "1", phase): reading(1.0, errors=1) for phase in ("steady", "kill")}
    assert [(each.at.phase, each.quantity) for each in verdict(slo, readings(cells))] == [
        ("steady", Quantity.ERRORS)
    ]
    assert len(checks(slo, readings(cells))) == 4


def test_a_promise_of_one_version_takes_nothing_from_one_of_all_together():
    slo = parse('[[promise]]\np99_ms = 1.5\n[[promise]]\nversion = "8"\np99_ms = 10\n')
    (broken,) = verdict(slo, GOOD)
    assert broken.at == Cell(TOGETHER, TOGETHER, TOGETHER)


def test_throughput_is_of_right_answers_and_of_the_phase_alone():
    cells = {("m", "1", "a"): reading(*[1.0] * 50, errors=50), ("m", "1", "b"): reading(1.0)}
    found = readings(cells, a=5.0, b=10.0)
    assert measure(Quantity.THROUGHPUT, Cell("m", "1", "a"), found) == 10
    assert measure(Quantity.THROUGHPUT, Cell(TOGETHER, TOGETHER, TOGETHER), found) == pytest.approx(51 / 15)


# What is read


def test_what_is_shipped_is_understood_and_promises_no_stale_answer(root):
    slo = read(root / "loadtests" / "slo.toml")
    assert Promise(bounds={Quantity.STALE: 0.0}) in slo.promises


def test_every_word_of_the_promises_is_in_the_reference(root):
    page = (root / "docs" / "load-testing.md").read_text()
    for word in (*Quantity, "model", "version", "phase"):
        assert f"| `{word}` |" in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no promises; write at least one"),
        ("[promise]\np99_ms = 1", "no promises"),
        ("[[promises]]\np99_ms = 1", "unknown table 'promises'"),
        ("[[promise]]\nphase = 'x'", "promise 1: nothing is promised; give one of p50_ms"),
        ("[[promise]]\np98_ms = 1", "promise 1: unknown 'p98_ms'; known: model, version, phase, p50_ms"),
        ("[[promise]]\np99_ms = 1\n[[promise]]\np99_ms = '1'", "promise 2: p99_ms = '1': expected a number"),
        ("[[promise]]\nstale = true", "stale = True: expected a number"),
        ("[[promise]]\nversion = 7\np99_ms = 1", "version = 7: expected a string"),
        ("[[promise]]\nphase = ''\np99_ms = 1", "phase is empty"),
        ("[[promise]]\np99_ms = nan", "expected a number from 0 up"),
        ("[[promise]]\nerror_rate = 5", "error_rate is a share, from 0 to 1"),
        ("[[promise", "no TOML"),
    ],
)
def test_a_mistake_in_the_promises_says_where_and_what_would_work(text, said):
    with pytest.raises(SloError, match=said.replace("(", r"\(")):
        parse(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SloError, match="slo.toml: no such file"):
        read(tmp_path / "slo.toml")
