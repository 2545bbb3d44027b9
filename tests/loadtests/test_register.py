"""The checker must find what is wrong, and nothing else: in histories made up, and over real sockets."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loadtests.register import Kill, Kind, Outcome, Request, Switch, Timeline, judge
from loadtests.switching import gaps, records, trial
from loadtests.switching.admin import Admin
from loadtests.switching.broken import Broken, Defect

TIMES = st.integers(0, 400)


def ask(start: int, end: int, version: int, connection: int = 0, outcome: Outcome = Outcome.OK) -> Request:
    return Request(start, end, outcome, version, version, version, connection)


@st.composite
def switchings(draw, *, certain: bool = False) -> list[Switch]:
    """Switches one after the other, between few versions; some without an answer, some not confirmed."""
    at, before, made = 0, 1, []
    for after in draw(st.lists(st.integers(1, 3), min_size=1, max_size=6)):
        submitted = at + draw(st.integers(1, 40))
        at = submitted + draw(st.integers(0, 40))
        answered = certain or draw(st.booleans())
        confirmed = answered and (certain or draw(st.booleans()))
        atomic = draw(st.booleans())
        made.append(Switch(submitted, at if answered else None, before, after, confirmed, atomic))
        before = after
    return made


@st.composite
def served(draw) -> tuple[list[Switch], list[Request]]:
    """What a right register does: each switch takes effect at one moment, and each request reads at one."""
    switches, effects = draw(switchings(certain=True)), []
    for switch in switches:
        assert switch.acknowledged_ns is not None
        moment = draw(st.integers(switch.submitted_ns, switch.acknowledged_ns))
        happened = draw(st.booleans())
        effects.append((moment if happened else None, switch.after))
    lost = [
        switch if moment is not None else replace(switch, acknowledged_ns=None, confirmed=False)
        for switch, (moment, _) in zip(switches, effects, strict=True)
    ]
    requests = []
    for number in range(draw(st.integers(1, 12))):
        start, end = sorted((draw(TIMES), draw(TIMES)))
        read_at = draw(st.integers(start, end))
        live = switches[0].before
        for moment, after in effects:
            if moment is not None and moment <= read_at:
                live = after
        requests.append(ask(start, end, live, number))
    return lost, requests


def explained(requests: list[Request], switches: list[Switch]) -> bool:
    """Say whether some assignment of states to requests explains all of them: tried one by one."""
    timeline = Timeline(switches)
    choices = []
    for request in requests:
        first, last = timeline.span(request)
        choices.append([s for s in range(first, last + 1) if timeline.versions[s] == request.true])
    return any(
        all(
            timeline.seen(states[a]) <= states[b]
            for a, b in itertools.permutations(range(len(requests)), 2)
            if requests[a].end_ns < requests[b].start_ns
        )
        for states in itertools.product(*choices)
    )


# Laws


@given(served())
def test_a_register_that_is_right_is_never_accused(history):
    switches, requests = history
    verdict = judge(requests, switches)
    assert verdict.holds, verdict
    assert (verdict.requests, verdict.switches, verdict.lost) == (len(requests), len(switches), 0)


@given(switchings(), st.lists(st.tuples(TIMES, TIMES, st.integers(1, 3)), min_size=1, max_size=4))
def test_it_accuses_exactly_what_no_order_of_events_explains(switches, asked):
    requests = [ask(min(a, b), max(a, b), version, n) for n, (a, b, version) in enumerate(asked)]
    verdict = judge(requests, switches)
    assert verdict.holds == explained(requests, switches), verdict


@given(served(), st.integers(1, 50))
def test_an_answer_by_the_old_version_after_a_confirmed_switch_is_always_stale(history, took):
    switches, requests = history
    last = switches[-1]
    old = switches[-1].before
    assume(last.certain and last.after != old)
    late = ask((last.acknowledged_ns or 0) + 1, (last.acknowledged_ns or 0) + 1 + took, old)
    verdict = judge([*requests, late], switches)
    assert verdict.counts[Kind.STALE] == 1
    assert f"was answered by {old}" in verdict.shown[Kind.STALE][0]


@given(served(), st.sampled_from(["claimed", "routed"]), st.integers(0, 11))
def test_one_wrong_label_is_found(history, which, at):
    switches, requests = history
    wrong = requests[at % len(requests)]
    requests[at % len(requests)] = wrong._replace(**{which: wrong.true + 1})
    assert judge(requests, switches).counts[Kind.MISLABELLED] == 1


@given(served(), st.randoms())
def test_the_verdict_does_not_depend_on_the_order_of_the_records(history, random):
    switches, requests = history
    shuffled = list(requests)
    random.shuffle(shuffled)
    assert judge(shuffled, switches) == judge(requests, switches)


# Examples


SWITCH = Switch(100, 110, 1, 2)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (ask(50, 60, 1), None),
        (ask(50, 60, 2), Kind.STALE),  # Before anybody asked for it.
        (ask(50, 100, 2), None),  # It ended at the very moment.
        (ask(90, 105, 1), None),
        (ask(90, 105, 2), None),
        (ask(105, 200, 1), None),  # It began before the acknowledgement.
        (ask(110, 200, 1), None),  # At the very moment: nobody can tell.
        (ask(111, 200, 1), Kind.STALE),
        (ask(111, 200, 2), None),
        (ask(111, 200, 3), Kind.STALE),  # Of a version that never was live.
        (ask(111, 200, 0, outcome=Outcome.FAILED), Kind.FAILED),
        (ask(111, 200, 0, outcome=Outcome.LOST), Kind.FAILED),
    ],
)
def test_what_may_be_answered_around_a_switch(request_, kind):
    counts = judge([request_], [SWITCH]).counts
    assert [each for each in Kind if counts[each]] == ([kind] if kind else [])


def test_a_switch_whose_answer_was_lost_may_have_happened_until_another_is_confirmed():
    lost = Switch(100, None, 1, 2, confirmed=False)
    after = Switch(300, 310, 2, 1)
    both = [ask(200, 210, 1), ask(220, 230, 2), ask(240, 250, 1)]
    assert judge(both, [lost, after]).holds
    assert judge([ask(320, 330, 2)], [lost, after]).counts[Kind.STALE] == 1


def test_a_switch_that_was_not_confirmed_makes_nobody_stale():
    assert judge([ask(200, 210, 1)], [replace(SWITCH, confirmed=False)]).holds


def test_an_older_version_after_a_newer_one_is_an_inversion_only_of_an_atomic_switch():
    long = Switch(100, 200, 1, 2)
    seen = [ask(120, 130, 2, 0), ask(131, 140, 1, 1)]
    assert judge(seen, [long]).holds
    verdict = judge(seen, [replace(long, atomic=True)])
    assert (verdict.counts[Kind.INVERSION], verdict.counts[Kind.STALE]) == (1, 0)
    overlapping = [ask(120, 130, 2, 0), ask(130, 140, 1, 1)]
    assert judge(overlapping, [replace(long, atomic=True)]).holds


def test_a_long_request_by_the_older_version_makes_nobody_forget_the_newer_one():
    atomic = Switch(100, 300, 1, 2, atomic=True)
    history = [ask(90, 150, 1, 0), ask(120, 130, 2, 1), ask(160, 170, 1, 2)]
    assert judge(history, [atomic]).counts[Kind.INVERSION] == 1


def test_a_kill_excuses_one_lost_request_of_each_connection_and_none_at_other_times():
    kill = Kill(100, 150)
    lost = [ask(90, 110, 0, 0, Outcome.LOST), ask(140, 160, 0, 1, Outcome.LOST)]
    verdict = judge(lost, [], [kill])
    assert verdict.holds and (verdict.lost, verdict.lost_max) == (2, 2)
    assert judge([*lost, ask(120, 130, 0, 0, Outcome.LOST)], [], [kill]).counts[Kind.FAILED] == 1
    assert judge([ask(151, 160, 0, 0, Outcome.LOST)], [], [kill]).counts[Kind.FAILED] == 1


def test_a_switch_for_which_a_replica_was_killed_excuses_what_was_lost_meanwhile():
    lost = [ask(90, 105, 0, 0, Outcome.LOST)]
    assert judge(lost, [replace(SWITCH, killed=True)]).lost == 1
    assert not judge(lost, [SWITCH]).holds


def test_switches_that_overlap_are_no_history():
    with pytest.raises(ValueError, match="one after the other"):
        judge([], [SWITCH, Switch(105, 120, 2, 1)])


def test_a_verdict_counts_everything_and_shows_the_first_few():
    verdict = judge([ask(200 + n, 300, 1, n) for n in range(20)], [SWITCH])
    assert (verdict.counts[Kind.STALE], len(verdict.shown[Kind.STALE])) == (20, 5)
    assert "20 stale" in str(verdict) and len(str(verdict).splitlines()) == 6


def test_a_history_in_which_nothing_is_decided_says_so():
    verdict = judge([ask(90, 200, 1)], [SWITCH])
    assert verdict.holds and (verdict.decisive, verdict.proven) == (0, 0)
    assert judge([ask(150, 200, 2)], [SWITCH]).proven == 1


# Gaps and records


@given(st.lists(TIMES, min_size=2, unique=True), TIMES, st.integers(1, 50))
def test_the_longest_gap_of_a_window_is_the_longest_of_those_that_reach_into_it(ends, start, length):
    ends, window = sorted(ends), (start, start + length)
    assume(ends[0] <= window[0] and window[1] <= ends[-1])
    slow = max(b - a for a, b in itertools.pairwise(ends) if b > window[0] and a < window[1])
    assert gaps.longest_ns(ends, window) == slow


def test_a_gap_at_the_edge_of_the_records_is_not_known():
    assert gaps.longest_ns([10, 20], (5, 15)) is None
    assert gaps.longest_ns([10, 20], (15, 25)) is None


def test_windows_between_switches_are_as_long_and_touch_none():
    windows = [(0, 10), (50, 60), (65, 75)]
    assert gaps.between(windows) == [(25, 35)]


def test_records_are_read_as_they_were_written(tmp_path):
    notes = records.Notes()
    written = [ask(2**62, 2**62 + 5, 255, 65535), ask(0, 1, 0, 3, Outcome.LOST)]
    for each in written:
        notes.add(each)
    notes.save(tmp_path / "requests.bin")
    assert list(records.load(tmp_path / "requests.bin")) == written


# Over real sockets


def run(defect: Defect, tmp_path, *, atomic: bool = False) -> trial.Run:
    with Broken(defect) as gateway:
        admin = Admin(gateway.url, "token")
        return trial.run(gateway.port, admin, tmp_path, switches=6, think_ms=3.0, atomic=atomic)


@pytest.mark.parametrize(
    ("defect", "atomic"), [(Defect.NONE, True), (Defect.NONE, False), (Defect.SPREADS, False)]
)
def test_a_gateway_that_is_right_passes(defect, atomic, tmp_path):
    verdict = run(defect, tmp_path, atomic=atomic).verdict()
    assert verdict.holds, verdict
    assert verdict.proven == 7
    assert verdict.decisive > 100


@pytest.mark.parametrize(
    ("defect", "kind"),
    [
        (Defect.EARLY, Kind.STALE),
        (Defect.LAGS, Kind.STALE),
        (Defect.DROPS, Kind.FAILED),
        (Defect.FAILS, Kind.FAILED),
        (Defect.MISLABELS, Kind.MISLABELLED),
        (Defect.MISROUTES, Kind.MISLABELLED),
        (Defect.SPREADS, Kind.INVERSION),
    ],
)
def test_a_gateway_that_is_broken_is_caught_for_what_it_does(defect, kind, tmp_path):
    counts = run(defect, tmp_path, atomic=defect is Defect.SPREADS).verdict().counts
    assert counts[kind] > 0
    assert sum(counts.values()) == counts[kind], counts
