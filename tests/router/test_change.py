"""Laws of changes: what they leave alone, and that replaying them gives the same table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import Change, Refused, Remove, SetAlias, SetRoute, apply, fold, is_idle
from router.names import InvalidName
from router.rollout import Rollout
from router.table import Route, RoutingTable
from router.verb import Verb
from tests.router.routes import aliases, changes, models, routes, versions
from tests.slow import slow


def held(table: RoutingTable) -> tuple[dict[str, Route], dict[str, dict[str, str]], dict[str, Rollout]]:
    aliases = {model: dict(named) for model, named in table.aliases.items()}
    return dict(table.routes), aliases, dict(table.rollouts)


def applied(changes: list[Change]) -> RoutingTable:
    """The table after those of the changes that were not refused."""
    table = RoutingTable()
    for change in changes:
        try:
            table = apply(table, change)
        except Refused:
            continue
    return table


tables = st.lists(changes, max_size=6).map(applied)


@given(tables, changes)
@slow
def test_a_change_is_one_revision_and_touches_nothing_but_its_model(
    table: RoutingTable, change: Change
) -> None:
    before = held(table)
    try:
        after = apply(table, change)
    except Refused:
        assert isinstance(change, Remove) and change.model not in table.routes
        return
    assert after.revision == table.revision + 1
    assert held(table) == before
    for model in {*table.routes, *after.routes, *table.aliases, *after.aliases} - {change.model}:
        assert after.routes.get(model) == table.routes.get(model)
        assert after.aliases.get(model) == table.aliases.get(model)


@given(tables, changes)
@slow
def test_a_change_made_again_is_idle(table: RoutingTable, change: Change) -> None:
    if isinstance(change, Remove) and change.model not in table.routes:
        return
    after = apply(table, change)
    if not isinstance(change, Remove):
        assert is_idle(after, change)
    assert is_idle(table, change) == (held(after) == held(table))


@given(st.lists(changes.filter(lambda change: not isinstance(change, Remove)), max_size=8), st.integers(0, 8))
@slow
def test_replaying_can_stop_and_go_on_anywhere(all_changes: list[Change], at: int) -> None:
    table = fold(all_changes[:at])
    for change in all_changes[at:]:
        table = apply(table, change)
    assert table == fold(all_changes)
    assert table.revision == len(all_changes)


@given(tables, models, routes, aliases, versions)
@slow
def test_a_route_leaves_aliases_alone_and_an_alias_routes(
    table: RoutingTable, model: str, route: Route, alias: str, version: str
) -> None:
    assert apply(table, SetRoute(Verb.SPLIT, model, route)).aliases == table.aliases
    assert apply(table, SetAlias(model, alias, version)).routes == table.routes


def test_only_a_route_that_is_there_can_be_removed() -> None:
    with pytest.raises(Refused, match="no route for 'digits'; there are no models"):
        apply(RoutingTable(), Remove("digits"))


@pytest.mark.parametrize(
    ("alias", "version"), [("latest", "7"), ("v7", "7"), ("champion", "07"), ("a b", None)]
)
def test_an_alias_that_cannot_be_is_no_change(alias: str, version: str | None) -> None:
    with pytest.raises(InvalidName):
        SetAlias("digits", alias, version)
