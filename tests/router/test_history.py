"""Laws of the history: what was in force when, and which versions served well."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import Refused, Remove, SetRoute, fold
from router.history import History
from router.table import WHOLE_BP, Route, Share, everything_to
from router.verb import Verb
from tests.router.routes import changes, journal, journalled
from tests.slow import slow

kept = st.lists(changes.filter(lambda change: not isinstance(change, Remove)), max_size=10)


def served(*steps: tuple[Verb, str]) -> History:
    """A history of one model; ``7`` is all to 7, ``8:5`` is 5 % to 8 and the rest to 7, ``!9`` pins 9."""
    history = History()
    for verb, words in steps:
        version, _, weight = words.partition(":")
        if words.startswith("!"):
            route = Route(history.table.routes["digits"].shares, pinned=words[1:])
        elif weight:
            bp = int(weight) * 100
            route = Route((Share(version, bp), Share("7", WHOLE_BP - bp)))
        else:
            route = everything_to(version)
        journalled(history, SetRoute(verb, "digits", route))
    return history


@given(kept)
@slow
def test_the_table_is_the_fold_of_the_journal_at_every_revision(all_changes) -> None:
    history = journal(all_changes)
    assert history.table == fold(all_changes)
    for revision in range(len(all_changes) + 1):
        assert history.at(revision) == fold(all_changes[:revision])
    assert [entry.revision for entry in history] == list(range(1, len(history) + 1))
    again = History(history)
    assert again.table == history.table and again.last_hash == history.last_hash
    assert again.epochs == history.epochs
    assert {model: again.kept(model) for model in again.epochs} == {
        model: history.kept(model) for model in history.epochs
    }


@given(kept, st.integers(-3, 20))
@slow
def test_there_is_no_other_revision(all_changes, revision: int) -> None:
    history = journal(all_changes)
    if 0 <= revision <= len(all_changes):
        assert history.at(revision).revision == revision
    else:
        with pytest.raises(
            Refused, match=f"there is no revision {revision}; the journal ends with {len(history)}"
        ):
            history.at(revision)


@given(kept, st.lists(st.integers(0, 30), min_size=10, max_size=10), st.integers(-1, 31))
@slow
def test_what_was_in_force_at_a_time_never_goes_back_though_a_clock_may(all_changes, times, at_us) -> None:
    history = History()
    for change, written_us in zip(all_changes, times, strict=False):
        journalled(history, change, written_us)
    found = history.at_time(at_us).revision
    assert found <= history.at_time(at_us + 1).revision
    # An entry is in force from its time on, but never before the one that it follows.
    latest = [max(times[: index + 1]) for index in range(len(all_changes))]
    assert found == sum(each <= at_us for each in latest)
    if times == sorted(times):
        assert found == sum(each <= at_us for each in times[: len(all_changes)])
    assert history.at_time(31).revision == len(history)


@given(kept)
@slow
def test_an_epoch_is_the_revision_that_gave_a_model_its_route(all_changes) -> None:
    history = journal(all_changes)
    for model, revision in history.epochs.items():
        assert history.at(revision).routes.get(model) == history.table.routes.get(model)
        assert history.at(revision - 1).routes.get(model) != history.table.routes.get(model)


@given(kept)
@slow
def test_a_versions_entries_are_those_of_its_model(all_changes) -> None:
    history = journal(all_changes)
    assert len(history.of("digits")) + len(history.of("fraud")) == len(history)
    for model in ("digits", "fraud"):
        assert history.seen(model) >= {
            share.version
            for entry in history.of(model)
            if isinstance(entry.change, SetRoute)
            for share in entry.change.route.shares
        }


@pytest.mark.parametrize(
    ("steps", "good"),
    [
        ([], ""),
        ([(Verb.ADOPT, "7")], ""),
        ([(Verb.ADOPT, "7"), (Verb.SPLIT, "8:5")], "7"),
        ([(Verb.ADOPT, "7"), (Verb.SPLIT, "8:5"), (Verb.PROMOTE, "8")], "7"),
        ([(Verb.ADOPT, "7"), (Verb.PROMOTE, "8"), (Verb.SPLIT, "9:5")], "8"),
        ([(Verb.ADOPT, "7"), (Verb.PROMOTE, "8"), (Verb.ROLLBACK, "7")], ""),
        ([(Verb.ADOPT, "6"), (Verb.PROMOTE, "7"), (Verb.PROMOTE, "8"), (Verb.ROLLBACK, "7")], "6"),
        ([(Verb.ADOPT, "7"), (Verb.PROMOTE, "8"), (Verb.ROLLBACK, "7"), (Verb.PROMOTE, "8")], "7"),
        ([(Verb.ADOPT, "7"), (Verb.TAKE, "8"), (Verb.TAKE, "9")], "8"),
        ([(Verb.ADOPT, "7"), (Verb.PIN, "!9")], "7"),
        ([(Verb.ADOPT, "7"), (Verb.PIN, "!9"), (Verb.UNPIN, "7")], ""),
        ([(Verb.ADOPT, "7"), (Verb.PROMOTE, "8"), (Verb.PIN, "!7")], "8"),
    ],
)
def test_the_last_known_good_is_what_served_whole_and_was_not_rolled_back_from(steps, good: str) -> None:
    assert served(*steps).last_good("digits") == good


def test_a_version_that_only_had_a_share_or_a_pin_is_never_known_as_good() -> None:
    history = served((Verb.ADOPT, "7"), (Verb.SPLIT, "8:99"), (Verb.PIN, "!9"), (Verb.SPLIT, "8:1"))
    assert history.kept("digits") == ["7"]
    assert history.seen("digits") == {"7", "8", "9"}


def test_a_model_that_nobody_knows_has_no_past() -> None:
    history = History()
    assert (history.last_good("x"), history.kept("x"), history.of("x"), history.seen("x")) == (
        "",
        [],
        [],
        frozenset(),
    )


def test_a_rollback_that_is_taken_back_speaks_against_nothing() -> None:
    history = served((Verb.ADOPT, "7"), (Verb.PROMOTE, "8"), (Verb.ROLLBACK, "7"), (Verb.ROLLBACK, "8"))
    assert history.last_good("digits") == "7"
    assert history.kept("digits") == ["8", "7"]
