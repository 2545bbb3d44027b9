"""Laws of the routing table: who has which slots, and what can be no table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.names import InvalidName
from router.pick import version_at
from router.table import (
    ALIASES_MAX,
    SHADOWS_MAX,
    SHARES_MAX,
    WHOLE_BP,
    InvalidTable,
    NoRoute,
    Route,
    RoutingTable,
    Shadow,
    Share,
    Sticky,
    VersionRef,
    everything_to,
    newest_first,
)
from tests.router.routes import aliases, models, routes, shares, slots, versions, weights


@given(shares())
def test_each_version_gets_exactly_the_slots_of_its_weight(given_shares: tuple[Share, ...]) -> None:
    route = Route(given_shares)
    got = [version_at(route, slot) for slot in range(WHOLE_BP)]
    assert {share.version: got.count(share.version) for share in given_shares} == {
        share.version: share.weight_bp for share in given_shares
    }


@given(shares(), st.integers(0, WHOLE_BP - 1))
def test_a_version_without_weight_gets_no_slot(given_shares: tuple[Share, ...], slot: int) -> None:
    route = Route(given_shares)
    idle = {share.version for share in given_shares if not share.weight_bp}
    assert version_at(route, slot) not in idle
    assert version_at(route, 0) not in idle
    assert version_at(route, WHOLE_BP - 1) not in idle


@given(shares(), st.lists(st.integers(0, WHOLE_BP - 1), min_size=1, max_size=50))
def test_slots_lie_as_they_are_defined(given_shares: tuple[Share, ...], some: list[int]) -> None:
    route = Route(given_shares)
    owned = slots(route)
    assert all(slot in owned[version_at(route, slot)] for slot in some)


@given(st.data(), shares(count_min=2), st.booleans())
def test_a_version_that_alone_grows_keeps_and_one_that_alone_shrinks_gains_nothing(
    data: st.DataObject, before: tuple[Share, ...], grows: bool
) -> None:
    changing = data.draw(st.integers(0, len(before) - 1))
    share, others = before[changing], [*before[:changing], *before[changing + 1 :]]
    rest = WHOLE_BP - share.weight_bp
    # The others give or take any parts of what the one takes or gives.
    moved = data.draw(st.integers(0, rest if grows else share.weight_bp))
    parts = data.draw(weights(len(others)))
    if grows:
        left = [each.weight_bp for each in others]
        for index in data.draw(st.permutations(range(len(others)))):
            taken = min(left[index], moved - (sum(each.weight_bp for each in others) - sum(left)))
            left[index] -= taken
        now = share.weight_bp + moved
    else:
        left = [each.weight_bp + part * moved // WHOLE_BP for each, part in zip(others, parts, strict=True)]
        left[0] += WHOLE_BP - (share.weight_bp - moved) - sum(left)
        now = share.weight_bp - moved
    after = [replace(each, weight_bp=weight_bp) for each, weight_bp in zip(others, left, strict=True)]
    had = slots(Route(before))[share.version]
    has = slots(Route((*after, Share(share.version, now))))[share.version]
    assert had <= has if grows else has <= had


@given(shares(), st.randoms(use_true_random=False))
def test_the_order_in_which_shares_are_named_means_nothing(given_shares, random) -> None:
    shuffled = list(given_shares)
    random.shuffle(shuffled)
    assert Route(tuple(shuffled)) == Route(given_shares)
    assert [share.version for share in Route(given_shares).shares] == newest_first(
        share.version for share in given_shares
    )


@given(st.lists(st.integers(0, WHOLE_BP), min_size=1, max_size=6))
def test_weights_that_do_not_add_up_are_no_route(given_weights: list[int]) -> None:
    assume(sum(given_weights) != WHOLE_BP)
    with pytest.raises(InvalidTable, match=r"the weights add up to [0-9.]+%, not 100%"):
        Route(tuple(Share(str(version), bp) for version, bp in enumerate(given_weights, 1)))


@given(routes)
def test_the_primary_has_the_most_traffic_and_of_equals_is_the_oldest(route: Route) -> None:
    most = max(share.weight_bp for share in route.shares)
    assert route.primary == min((share.version for share in route.shares if share.weight_bp == most), key=int)


@given(routes)
def test_one_version_is_the_whole_if_nothing_else_answers(route: Route) -> None:
    answering = {route.pinned} if route.pinned else {version for version, own in slots(route).items() if own}
    assert route.whole == (answering.pop() if len(answering) == 1 else "")


@given(routes)
def test_a_route_needs_every_version_that_it_names(route: Route) -> None:
    named = [share.version for share in route.shares] + [shadow.version for shadow in route.shadows]
    assert route.versions == {*named, *([route.pinned] if route.pinned else [])}
    table = RoutingTable().with_route("digits", route)
    assert table.needs("digits") == route.versions
    assert table.needs("fraud") == frozenset()


@given(routes)
def test_a_route_written_for_people_names_every_share_and_shadow(route: Route) -> None:
    words = str(route).split()
    assert len(words) == len(route.shares) + len(route.shadows) + bool(route.baseline_bp) + bool(route.pinned)
    assert all(any(f"{version}" in word for word in words) for version in route.versions)


@pytest.mark.parametrize("bp", [-1, WHOLE_BP + 1])
def test_a_share_is_between_nothing_and_everything(bp: int) -> None:
    with pytest.raises(InvalidTable, match="version 7 would get"):
        Share("7", bp)


@pytest.mark.parametrize("bp", [-1, 0, WHOLE_BP + 1])
def test_a_shadow_gets_something(bp: int) -> None:
    with pytest.raises(InvalidTable, match="version 7 would shadow"):
        Shadow("7", bp)


def test_a_version_is_named_once() -> None:
    with pytest.raises(InvalidTable, match="a version is named twice: 7, 7"):
        Route((Share("7", 5000), Share("7", 5000)))
    with pytest.raises(InvalidTable, match="a version is named twice: 8, 8"):
        Route((Share("7", WHOLE_BP),), (Shadow("8", 1), Shadow("8", 2)))
    assert Route((Share("7", WHOLE_BP),), (Shadow("7", 1),)).versions == {"7"}, "an A/A arm"


def test_what_a_table_holds_is_bounded() -> None:
    many = tuple(Share(str(version), 0) for version in range(1, SHARES_MAX + 1))
    with pytest.raises(InvalidTable, match="33 live versions are too many; 32 can be"):
        Route((*many, Share("99", WHOLE_BP)))
    with pytest.raises(InvalidTable, match="9 shadow versions are too many; 8 can be"):
        Route((Share("7", WHOLE_BP),), tuple(Shadow(str(each), 1) for each in range(1, SHADOWS_MAX + 2)))
    table = RoutingTable()
    for number in range(ALIASES_MAX):
        table = table.with_alias("digits", f"a{number}", "7")
    with pytest.raises(InvalidTable, match="'digits' would have 65 aliases; 64 can be"):
        table.with_alias("digits", "more", "7")


@pytest.mark.parametrize(
    "keys", [(), ("id",) * 9, ("user",), ("header:",), ("header:x y",), ("cookie:a",), ("ID",)]
)
def test_what_is_no_key_of_a_caller_is_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(InvalidTable, match="stickiness needs 1 to 8 keys|is no key of a caller"):
        Sticky(keys)


@pytest.mark.parametrize("salt", ["x" * 129, "a\0b", "a\nb", "\ud800"])
def test_a_salt_is_short_and_printable(salt: str) -> None:
    with pytest.raises(InvalidTable, match="the salt has to have 128 printable characters at most"):
        Sticky(("id",), salt)


@pytest.mark.parametrize("text", ["0", "x", "", "@champion"])
def test_only_a_version_can_have_a_share_or_shadow_or_be_pinned_or_aliased(text: str) -> None:
    for make in (
        lambda: Share(text, 1),
        lambda: Shadow(text, 1),
        lambda: Route((Share("7", WHOLE_BP),), pinned=text or "x"),
        lambda: RoutingTable().with_alias("digits", "champion", text),
    ):
        with pytest.raises(InvalidName, match="is no version"):
            make()


@given(models, aliases, versions)
def test_an_alias_means_its_version_until_it_is_taken_away(model: str, alias: str, version: str) -> None:
    table = RoutingTable().with_alias(model, alias, version)
    assert table.resolve(model, f"@{alias}") == version
    assert table.resolve(model, "3") == "3", "a number means itself, known or not"
    without = table.with_alias(model, alias, None)
    assert without.aliases == {} and without.revision == 2
    with pytest.raises(NoRoute, match="has no alias .*; there are no aliases"):
        without.resolve(model, f"@{alias}")


@given(routes, models)
def test_a_change_leaves_the_table_before_it_as_it_was(route: Route, model: str) -> None:
    before = RoutingTable().with_route(model, everything_to("1")).with_alias(model, "champion", "1")
    kept = (
        dict(before.routes),
        {name: dict(named) for name, named in before.aliases.items()},
        before.revision,
    )
    before.with_route(model, route)
    before.with_route(model, None)
    before.with_alias(model, "challenger", "2")
    before.with_alias(model, "champion", None)
    assert (
        dict(before.routes),
        {name: dict(named) for name, named in before.aliases.items()},
        before.revision,
    ) == kept
    with pytest.raises(TypeError):
        before.routes[model] = route  # type: ignore[index]


def test_the_list_of_known_aliases_in_an_error_is_bounded() -> None:
    table = RoutingTable()
    for number in range(ALIASES_MAX):
        table = table.with_alias("digits", f"a{number}", "7")
    with pytest.raises(NoRoute, match="and 44 more$"):
        table.resolve("digits", "@x")


def test_a_version_is_written_as_people_do() -> None:
    assert str(VersionRef("fraud", "7")) == "fraud@7"
    assert newest_first(["9", "10", "8"]) == ["10", "9", "8"]
