"""What is tallied is what a list of all requests says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.hdr import Histogram
from serving.bench.outcomes import ENDED, LOST, MIXED, TIMEOUT, Outcome
from serving.bench.promise import promises, verdict
from serving.bench.tally import NEVER_SENT, Tally, Total

OUTCOMES = [*ENDED, Outcome("200", "7", 3), Outcome("200", "8", 5), Outcome("503"), Outcome("200", "7", 4)]
S = 10**9

requests = st.lists(
    st.tuples(st.integers(0, 5 * S), st.integers(0, S), st.integers(0, S), st.integers(0, len(OUTCOMES) - 1)),
    min_size=1,
    max_size=60,
)
changes = st.lists(st.tuples(st.integers(0, 6 * S), st.integers(1, 6)), max_size=4)


def tallied(rows, from_ns=0, told=(), phases=(), settled_s=1.0) -> Tally:
    tally = Tally("m", OUTCOMES, from_ns, settled_s)
    for at, name in phases:
        tally.phase(at, name)
    for at, revision in told:
        tally.changed(at, "m", revision)
    for start in range(0, len(rows), 7):
        due, wait, took, code = np.array(rows[start : start + 7], np.int64).T
        tally.add(due, due + wait, due + wait + took, code)
    tally.finish()
    return tally


@given(requests, st.integers(0, 2 * S), changes)
def test_totals_are_those_of_a_list(rows, from_ns, told):
    tally = tallied(rows, from_ns, told)
    counted = [row for row in rows if row[0] >= from_ns]
    assert tally.outcomes == Counter(OUTCOMES[code].what for *_, code in counted)
    for version in {OUTCOMES[code].version for *_, code in counted}:
        mine = [row for row in counted if OUTCOMES[row[3]].version == version]
        latency, service, stale = Histogram(), Histogram(), 0
        for due, wait, took, code in mine:
            good = OUTCOMES[code].what == "200"
            if good or code in (TIMEOUT, MIXED):
                latency.record(wait + took)
            if good:
                service.record(took)
            needed = max([revision for at, revision in told if at < due + wait], default=0)
            stale += 0 < OUTCOMES[code].revision < needed
        total = tally.totals["", version]
        errors = sum(OUTCOMES[code].what != "200" for *_, code in mine)
        assert (total.count, total.errors, total.stale) == (len(mine), errors, stale)
        assert (total.latency, total.service) == (latency, service)


@given(requests)
def test_the_series_adds_up_to_the_totals(rows):
    tally = tallied(rows)
    seconds = Counter((due // S, OUTCOMES[code].version) for due, *_, code in rows)
    found = Counter()
    for each in tally.series:
        found[each.second, each.version] += each.count
    assert found == seconds
    assert sum(each.errors for each in tally.series) == tally.whole().errors


@given(requests, st.lists(st.integers(0, 5 * S), max_size=3).map(sorted))
def test_each_request_counts_for_the_phase_in_which_it_was_due(rows, starts):
    tally = tallied(rows, phases=[(at, f"p{number}") for number, at in enumerate(starts)])
    expected = Counter(
        next((f"p{n}" for n, at in reversed(list(enumerate(starts))) if at <= due), "") for due, *_ in rows
    )
    found = Counter()
    for (phase, _), total in tally.totals.items():
        found[phase] += total.count
    assert found == expected


def test_a_change_of_another_model_makes_nothing_stale():
    tally = Tally("m", OUTCOMES, 0, 1.0)
    tally.changed(0, "other", 99)
    one = np.array([1])
    tally.add(one, one, one, np.array([4]))
    tally.finish()
    assert tally.whole().stale == 0


def test_a_change_told_after_the_answer_was_counted_still_finds_it():
    tally = Tally("m", OUTCOMES, 0, 1.0)
    one = np.array([S])
    tally.add(one, one, one, np.array([4]))
    tally.changed(S - 1, "m", 4)
    tally.finish()
    assert tally.whole().stale == 1


@pytest.mark.parametrize(("at_ns", "stale"), [(S - 1, 1), (S, 0), (S + 1, 0)])
def test_what_was_sent_by_the_moment_of_the_confirmation_is_not_stale(at_ns, stale):
    tally = Tally("m", OUTCOMES, 0, 1.0)
    tally.changed(at_ns, "m", 4)
    one = np.array([S])
    tally.add(one, one, one + 5, np.array([4]))
    tally.finish()
    assert tally.whole().stale == stale


def test_what_was_never_sent_is_never_stale_and_counts_with_its_age():
    tally = Tally("m", OUTCOMES, 0, 1.0)
    tally.changed(0, "m", 9)
    tally.add(np.array([S]), np.array([NEVER_SENT]), np.array([3 * S]), np.array([TIMEOUT]))
    tally.finish()
    whole = tally.whole()
    assert (whole.count, whole.errors, whole.stale, whole.latency.max_ns) == (1, 1, 0, 2 * S)
    assert whole.service.count == 0


def test_a_lost_request_is_an_error_and_has_no_latency():
    whole = tallied([(0, 0, 5, LOST)]).whole()
    assert (whole.errors, whole.latency.count) == (1, 0)


class TestPromises:
    def test_each_is_held_against_its_figure(self):
        total = Total(count=1000, errors=2, stale=1)
        total.latency.record_many([1_000_000] * 980 + [9_000_000] * 20)
        kept = "p50=1.1ms,p98=1.1ms,p99=9.1ms,max=10ms,errors=0.2%,stale=0.1%"
        assert verdict(promises(kept), total) == []
        broken = promises("p50=999us,p99=8ms,max=0.0089s,errors=0.1%,stale=0%")
        assert [each.promise for each in verdict(broken, total)] == [each.text for each in broken]

    def test_nothing_answered_keeps_nothing(self):
        assert len(verdict(promises("p99=1s,errors=99%"), Total())) == 2

    @pytest.mark.parametrize(
        "text", ["", "p99", "p99=5", "p100=5ms", "errors=5", "rate=5ms", "p99=-1ms", "p99=5ms,,"]
    )
    def test_what_is_none_is_named(self, text):
        with pytest.raises(ValueError, match="is no promise"):
            promises(text)
