"""Laws of the choice of a version: to whom requests and callers are dealt, and what goes before what."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.pick import Choice, Reason, Wheel, pick, version_at
from router.table import WHOLE_BP, NoRoute, Route, RoutingTable, Share, Sticky, everything_to
from tests.router.routes import aliases, models, routes, salts, shares, slots, stickies, versions
from tests.slow import slow

CALLERS = 10_000
seeds = st.integers(0, 2**32).map(Random)


def callers(random: Random) -> list[bytes]:
    return [random.randbytes(random.randrange(8, 20)) for _ in range(CALLERS)]


def likely(count: int, share: float) -> bool:
    """Whether a count is within 5.5 standard deviations of a binomial variable, and some for small ones."""
    return abs(count - CALLERS * share) < 5.5 * sqrt(CALLERS * share * (1 - share)) + 10


def table(route: Route) -> RoutingTable:
    return RoutingTable().with_route("digits", route)


@given(shares(count_max=6), st.text(max_size=20), salts, seeds)
@slow
def test_callers_are_dealt_by_the_weights_whatever_model_and_salt(
    given_shares: tuple[Share, ...], model: str, salt: str, random: Random
) -> None:
    route, wheel = Route(given_shares), Wheel(model, salt)
    dealt = Counter(version_at(route, wheel.slot(key)) for key in callers(random))
    for share in given_shares:
        if share.weight_bp in (0, WHOLE_BP):
            assert dealt[share.version] == CALLERS * share.weight_bp // WHOLE_BP
        else:
            assert likely(dealt[share.version], share.weight_bp / WHOLE_BP)


@given(routes)
def test_the_baseline_arm_is_the_low_end_of_the_largest_share_and_no_more(route: Route) -> None:
    arm = set(route.baseline_slots)
    assert len(arm) == route.baseline_bp
    owned = slots(route)[route.primary]
    assert arm == set(sorted(owned)[: route.baseline_bp])
    for slot in {0, WHOLE_BP - 1, *list(arm)[:2]}:
        if not (route.pinned or route.whole):
            choice = pick(table(route), "digits", drawn=slot)
            assert (choice.reason is Reason.BASELINE) == (slot in arm)
            assert slot in slots(route)[choice.version]


@pytest.mark.parametrize("written", ["user-%d", "%d", "%08d", "customer/%d@example.org", "%x"])
def test_callers_that_are_numbered_are_dealt_by_the_weights_too(written: str) -> None:
    for salt in range(30):
        wheel = Wheel("digits", str(salt))
        got = sum(wheel.slot((written % number).encode()) < 500 for number in range(CALLERS))
        assert likely(got, 0.05)


@given(st.tuples(models, salts), st.tuples(models, salts), st.integers(500, 9500), seeds)
@slow
def test_who_gets_one_models_canary_says_nothing_of_who_gets_anothers(
    one: tuple[str, str], other: tuple[str, str], weight_bp: int, random: Random
) -> None:
    assume(one != other)
    first, second, share = Wheel(*one), Wheel(*other), weight_bp / WHOLE_BP
    both = sum(first.slot(key) < weight_bp and second.slot(key) < weight_bp for key in callers(random))
    assert likely(both, share * share)


@given(st.binary(max_size=40), st.text(max_size=20), salts)
def test_a_key_falls_always_at_the_same_place(key: bytes, model: str, salt: str) -> None:
    slot = Wheel(model, salt).slot(key)
    assert 0 <= slot < WHOLE_BP
    assert slot == Wheel(model, salt).slot(bytes(key))


def test_where_keys_fall_is_never_changed_by_a_release() -> None:
    assert [Wheel("digits", "exp-1").slot(key) for key in (b"", b"ann", b"bob", b"user-17")] == [
        3019,
        6865,
        7407,
        5050,
    ]


@given(routes, versions, st.binary(), st.integers(0, WHOLE_BP - 1))
def test_what_a_request_names_goes_before_everything(
    route: Route, version: str, key: bytes, drawn: int
) -> None:
    named = table(route).with_alias("digits", "champion", version)
    assert pick(named, "digits", version, key=key, drawn=drawn) == Choice(version, 2, Reason.NAMED)
    assert pick(named, "digits", "@champion", key=key, drawn=drawn) == Choice(version, 2, Reason.NAMED)


@given(routes, versions, st.none() | st.binary(), st.integers(0, WHOLE_BP - 1))
def test_a_pin_goes_before_all_that_the_shares_say(
    route: Route, pinned: str, key: bytes | None, drawn: int
) -> None:
    held = Route(route.shares, route.shadows, route.sticky, pinned)
    assert pick(table(held), "digits", key=key, drawn=drawn) == Choice(pinned, 1, Reason.PINNED)


@given(versions, stickies, st.none() | st.binary(), st.integers(0, WHOLE_BP - 1))
def test_who_has_all_traffic_answers_and_no_dice_are_thrown(
    version: str, sticky: Sticky | None, key: bytes | None, drawn: int
) -> None:
    route = Route((Share(version, WHOLE_BP), Share("61", 0)), sticky=sticky)
    assert pick(table(route), "digits", key=key, drawn=drawn) == Choice(version, 1, Reason.STATIC)


@given(shares(count_min=2), stickies, st.none() | st.binary(), st.integers(0, WHOLE_BP - 1))
def test_a_caller_sticks_where_the_route_does_and_else_the_drawn_slot_counts(
    given_shares: tuple[Share, ...], sticky: Sticky | None, key: bytes | None, drawn: int
) -> None:
    route = Route(given_shares, sticky=sticky)
    assume(not route.whole)
    choice = pick(table(route), "digits", key=key, drawn=drawn)
    if sticky is not None and key is not None:
        assert choice.reason is Reason.STICKY
        assert choice == pick(table(route), "digits", key=key, drawn=(drawn + 1) % WHOLE_BP)
        assert Wheel("digits", sticky.salt).slot(key) in slots(route)[choice.version]
    else:
        assert choice.reason is Reason.SPLIT
        assert drawn in slots(route)[choice.version]


@given(routes, st.none() | st.binary(), st.integers(0, WHOLE_BP - 1))
def test_nothing_answers_that_the_route_does_not_name(route: Route, key: bytes | None, drawn: int) -> None:
    choice = pick(table(route), "digits", key=key, drawn=drawn)
    weights = {share.version: share.weight_bp for share in route.shares}
    assert choice.version == route.pinned or (not route.pinned and weights[choice.version] > 0)


@given(st.lists(st.integers(0, WHOLE_BP), min_size=1, max_size=6), st.binary(), salts)
def test_growing_a_canary_never_moves_a_caller_off_it_nor_shrinking_one_onto_it(
    steps: list[int], key: bytes, salt: str
) -> None:
    sticky = Sticky(("id",), salt)
    on = [
        pick(
            table(Route((Share("8", bp), Share("7", WHOLE_BP - bp)), sticky=sticky)), "digits", key=key
        ).version
        == "8"
        for bp in sorted(steps)
    ]
    assert on == sorted(on)


@given(aliases)
def test_an_unknown_alias_is_answered_by_nothing(alias: str) -> None:
    with pytest.raises(NoRoute, match=f"model 'digits' has no alias '{alias}'; there are no aliases"):
        pick(table(everything_to("7")), "digits", f"@{alias}")


def test_an_unknown_model_is_told_the_known_ones_but_never_very_many() -> None:
    with pytest.raises(NoRoute, match="no model 'digit' is served; known models: digits$"):
        pick(table(everything_to("7")), "digit")
    many = RoutingTable()
    for number in range(500):
        many = many.with_route(f"m{number:03}", everything_to("1"))
    with pytest.raises(NoRoute, match="and 480 more$"):
        pick(many, "x")
    with pytest.raises(NoRoute, match="there are no models"):
        pick(RoutingTable(), "x")
