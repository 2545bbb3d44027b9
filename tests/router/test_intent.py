"""Laws of what users ask for: a history of any of it agrees with a naive model of it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.change import Refused, SetAlias, SetRoute, apply, fold, is_idle
from router.entry import check_chain, parse
from router.history import History
from router.intent import (
    Adopt,
    Alias,
    Intent,
    Mirror,
    Pin,
    Promote,
    Rollback,
    Split,
    Stick,
    Take,
    Unpin,
    decide,
    undo,
)
from router.names import InvalidName
from router.table import WHOLE_BP, InvalidTable, Sticky, everything_to
from router.verb import Verb
from tests.router.routes import aliases, journalled, models, weights

few = st.integers(1, 6).map(str)
named = few | aliases.map("@{}".format)
STICKY = Sticky(("id",), "exp-1")


class Naive:
    """One model: shares, shadows and aliases as dicts, and who served well as a list."""

    def __init__(self) -> None:
        self.shares: dict[str, int] = {}
        self.shadows: dict[str, int] = {}
        self.sticky: Sticky | None = None
        self.pinned = ""
        self.aliases: dict[str, str] = {}
        self.good: list[str] = []
        self.rolled_back: tuple[Any, list[str]] | None = None
        """If the last change was a rollback: the route and the good versions before it."""
        self.past: list[Any] = [None]
        """By revision: the route."""

    def route(self) -> Any:
        return (dict(self.shares), dict(self.shadows), self.sticky, self.pinned) if self.shares else None

    def set(
        self, shares: dict[str, int], shadows: dict[str, int], sticky: Sticky | None, pinned: str = ""
    ) -> None:
        self.shares, self.shadows, self.sticky, self.pinned = dict(shares), dict(shadows), sticky, pinned

    def answering(self) -> set[str]:
        return {self.pinned} if self.pinned else {version for version, bp in self.shares.items() if bp}

    def serves(self) -> None:
        """Note who has all of the traffic now."""
        if len(self.answering()) == 1 and not self.pinned:
            (version,) = self.answering()
            self.good = [*(each for each in self.good if each != version), version]

    def last_good(self) -> str:
        alone = self.answering() if len(self.answering()) == 1 else set()
        return next((each for each in reversed(self.good) if each not in alone), "")


class Intents(RuleBasedStateMachine):
    """Users ask for anything; what is decided is journalled, and the naive models do the same by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.naive = {"digits": Naive(), "fraud": Naive()}

    def ask(self, intent: Intent) -> Naive | None:
        """Decide and journal; None if it was refused, and then everything is as before."""
        before = self.history.table
        try:
            change = decide(self.history, intent)
        except (Refused, InvalidTable) as error:
            assert len(str(error)) > 10
            assert self.history.table is before
            return None
        back = undo(self.history.table, change)
        idle = is_idle(before, change)
        journalled(self.history, change)
        self.check_undo(before, change, back)
        assert is_idle(before, change) == idle
        naive = self.naive[intent.model]
        if isinstance(change, SetRoute) and change.verb is not Verb.ROLLBACK:
            naive.rolled_back = None
        return naive

    def check_undo(self, before: Any, change: Any, back: str) -> None:
        """The command that a receipt names restores what was before, whatever it was."""
        match change:
            case SetRoute(model=model) if model in before.routes:
                turnout, rollback, said, flag, revision = shlex.split(back)
                assert (turnout, rollback, said, flag) == ("turnout", "rollback", model, "--to-revision")
                undone = decide(self.history, Rollback(model, to_revision=int(revision)))
                after = apply(self.history.table, undone)
                assert after.routes[model] == before.routes[model]
            case SetAlias(model=model):
                *command, assignment = shlex.split(back)
                assert command == ["turnout", "alias", model]
                name, _, version = assignment.partition("=")
                undone = decide(self.history, Alias(model, name, version or None))
                assert apply(self.history.table, undone).aliases.get(model, {}) == before.aliases.get(
                    model, {}
                )
            case _:
                assert back == ""

    def version(self, model: str, text: str) -> str:
        return self.naive[model].aliases.get(text[1:], "") if text.startswith("@") else text

    def note(self) -> None:
        for naive in self.naive.values():
            naive.past.append(naive.route())

    @rule(model=models, version=few)
    def adopt(self, model: str, version: str) -> None:
        fresh = not self.naive[model].shares
        naive = self.ask(Adopt(model, version))
        assert (naive is not None) == fresh
        if naive is not None:
            naive.set({version: WHOLE_BP}, {}, None)
            naive.serves()
            self.note()

    @rule(model=models, version=few)
    def take(self, model: str, version: str) -> None:
        known = self.naive[model]
        seen = {int(each) for route in known.past if route for each in [*route[0], *filter(None, [route[3]])]}
        alone = len(known.answering()) == 1 and not known.pinned
        naive = self.ask(Take(model, version))
        assert (naive is not None) == (bool(known.shares) and alone and int(version) > max(seen))
        if naive is not None:
            naive.set({version: WHOLE_BP}, naive.shadows, naive.sticky)
            naive.serves()
            self.note()

    @rule(data=st.data(), model=models, live=st.lists(named, min_size=1, max_size=4))
    def split(self, data: st.DataObject, model: str, live: list[str]) -> None:
        asked = tuple(zip(live, data.draw(weights(len(live))), strict=True))
        old = self.naive[model]
        resolved = [self.version(model, each) for each, _ in asked]
        fine = all(resolved) and len(set(resolved)) == len(resolved) and old.shares and not old.pinned
        naive = self.ask(Split(model, asked))
        assert (naive is not None) == bool(fine)
        if naive is not None:
            now = dict(zip(resolved, (bp for _, bp in asked), strict=True))
            fresh = {version for version, bp in now.items() if bp and version not in naive.shares}
            shadows = {version: bp for version, bp in naive.shadows.items() if version not in fresh}
            naive.set(now, shadows, naive.sticky)
            naive.serves()
            self.note()

    @rule(model=models, shadows=st.dictionaries(named, st.integers(1, WHOLE_BP), max_size=3))
    def mirror(self, model: str, shadows: dict[str, int]) -> None:
        naive = self.ask(Mirror(model, tuple(shadows.items())))
        if naive is not None:
            naive.shadows = {self.version(model, each): bp for each, bp in shadows.items()}
            naive.serves()
            self.note()

    @rule(model=models, sticky=st.sampled_from([None, STICKY]))
    def stick(self, model: str, sticky: Sticky | None) -> None:
        naive = self.ask(Stick(model, sticky))
        if naive is not None:
            naive.sticky = sticky
            naive.serves()
            self.note()

    @rule(model=models, text=named)
    def promote(self, model: str, text: str) -> None:
        version, old = self.version(model, text), self.naive[model]
        naive = self.ask(Promote(model, text))
        assert (naive is not None) == (version in {*old.shares, *old.shadows} and not old.pinned)
        if naive is not None:
            shadows = {each: bp for each, bp in naive.shadows.items() if each != version}
            naive.set({version: WHOLE_BP}, shadows, naive.sticky)
            naive.serves()
            self.note()

    @rule(model=models, to=st.just("") | st.just("last-good") | named)
    def rollback(self, model: str, to: str) -> None:
        old = self.naive[model]
        version = old.last_good() if to in ("", "last-good") else self.version(model, to)
        naive = self.ask(Rollback(model, to))
        assert (naive is not None) == (bool(version) and bool(old.shares))
        if naive is not None:
            self.go_back(naive, ({version: WHOLE_BP}, {}, naive.sticky, ""))

    @rule(data=st.data(), model=models)
    def rollback_to_revision(self, data: st.DataObject, model: str) -> None:
        revision = data.draw(st.integers(0, self.history.revision))
        earlier, was = self.naive[model].past[revision], self.history.at(revision).routes.get(model)
        naive = self.ask(Rollback(model, to_revision=revision))
        assert (naive is not None) == (earlier is not None)
        if naive is not None:
            assert self.history.table.routes[model] == was, "exactly"
            self.go_back(naive, earlier)

    def go_back(self, naive: Naive, route: Any) -> None:
        left, before, was = naive.answering(), naive.route(), naive.rolled_back
        naive.set(*route)
        if was is not None and was[0] == naive.route():
            naive.good, naive.rolled_back = was[1], None
        else:
            naive.rolled_back = (before, naive.good)
            naive.good = [each for each in naive.good if each not in left - naive.answering()]
        naive.serves()
        self.note()

    @rule(model=models, text=named)
    def pin(self, model: str, text: str) -> None:
        naive = self.ask(Pin(model, text))
        if naive is not None:
            naive.pinned = self.version(model, text)
            self.note()

    @rule(model=models)
    def unpin(self, model: str) -> None:
        naive = self.ask(Unpin(model))
        if naive is not None:
            naive.pinned = ""
            naive.serves()
            self.note()

    @rule(model=models, alias=aliases, version=st.none() | few)
    def alias(self, model: str, alias: str, version: str | None) -> None:
        naive = self.ask(Alias(model, alias, version))
        assert naive is not None
        naive.aliases.pop(alias, None)
        naive.aliases |= {alias: version} if version else {}
        self.note()

    @precondition(lambda self: self.history.revision)
    @rule()
    def start_again(self) -> None:
        """A control that starts reads the journal, and knows what the one before knew."""
        stored = [(entry.text, entry.previous_hash, entry.hash) for entry in self.history]
        read = [(parse(text, before), digest) for text, before, digest in stored]
        assert check_chain(read) == (self.history.revision, self.history.last_hash)
        again = History(entry for entry, _ in read)
        assert dict(again.epochs) == dict(self.history.epochs)
        self.history = again

    @invariant()
    def both_agree(self) -> None:
        table = self.history.table
        assert table == fold(entry.change for entry in self.history)
        for model, naive in self.naive.items():
            route = table.routes.get(model)
            found = route and (
                {share.version: share.weight_bp for share in route.shares},
                {shadow.version: shadow.share_bp for shadow in route.shadows},
                route.sticky,
                route.pinned,
            )
            assert found == naive.route()
            assert dict(table.aliases.get(model, {})) == naive.aliases
            assert self.history.last_good(model) == naive.last_good()
            assert self.history.kept(model) == naive.good[::-1]


TestIntents = Intents.TestCase
TestIntents.settings = settings(stateful_step_count=30)


def history(*intents: Intent) -> History:
    found = History()
    for intent in intents:
        journalled(found, decide(found, intent))
    return found


START = (Adopt("digits", "7"), Split("digits", (("8", 500), ("7", 9500))))


@pytest.mark.parametrize(
    ("intent", "said"),
    [
        (Adopt("digits", "9"), "'digits' has a route already"),
        (Promote("digits", "9"), "digits@9 takes no traffic and shadows none.*turnout split digits 9=100%"),
        (Promote("fraud", "9"), "no route for 'fraud'; known models: digits"),
        (Promote("digits", "@champion"), "model 'digits' has no alias 'champion'; there are no aliases"),
        (Rollback("digits", "7", 1), "to a version or to a revision, not to both"),
        (Rollback("digits", to_revision=0), "'digits' had no route as of revision 0"),
        (Rollback("digits", to_revision=9), "there is no revision 9; the journal ends with 2"),
        (Take("digits", "9"), "digits@9 does not take over: 8=5% 7=95%"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(intent: Intent, said: str) -> None:
    with pytest.raises(Refused, match=said):
        decide(history(*START), intent)


@pytest.mark.parametrize("text", ["0", "latest", "@latest", "@v7", "", "champion", "7.0"])
def test_a_name_that_cannot_be_is_told_as_one(text: str) -> None:
    for intent in (Promote("digits", text), Pin("digits", text), Split("digits", ((text, WHOLE_BP),))):
        with pytest.raises(InvalidName):
            decide(history(*START), intent)


def test_a_first_version_has_nothing_to_go_back_to_and_the_refusal_says_how_to_name_one() -> None:
    with pytest.raises(Refused, match="no last known good version: none but 7 ever .* --to VERSION"):
        decide(history(Adopt("digits", "7")), Rollback("digits"))


@pytest.mark.parametrize(
    "intent",
    [
        Split("digits", (("8", WHOLE_BP),)),
        Mirror("digits", (("9", 1),)),
        Stick("digits", STICKY),
        Promote("digits", "8"),
        Take("digits", "9"),
    ],
)
def test_what_a_pin_would_hide_is_refused_while_there_is_one(intent: Intent) -> None:
    pinned = history(*START, Pin("digits", "7"))
    with pytest.raises(Refused, match="is pinned to version 7.*first: turnout unpin digits"):
        decide(pinned, intent)
    assert decide(pinned, Rollback("digits", "7")), "a rollback goes through a pin"


def test_a_canary_that_is_rolled_back_is_no_target_though_it_is_the_newest() -> None:
    found = history(*START, Promote("digits", "8"), Rollback("digits"))
    assert found.table.routes["digits"] == everything_to("7")
    with pytest.raises(Refused, match="no last known good version"):
        decide(found, Rollback("digits"))


def test_a_shadow_that_gets_traffic_is_a_shadow_no_more_but_the_arm_that_measures_noise_stays() -> None:
    found = history(Adopt("digits", "7"), Mirror("digits", (("8", 2000), ("7", 100))), Promote("digits", "8"))
    assert [shadow.version for shadow in found.table.routes["digits"].shadows] == ["7"]
    found = history(Adopt("digits", "7"), Mirror("digits", (("8", 2000), ("7", 100))), *START[1:])
    assert [shadow.version for shadow in found.table.routes["digits"].shadows] == ["7"]
