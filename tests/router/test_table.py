"""Laws of the routing table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.table import InvalidTable, NoRoute, Route, RoutingTable, newest_first, pick

versions = st.frozensets(st.integers(1, 99).map(str), min_size=1, max_size=5)


@given(versions)
def test_a_request_that_names_no_version_gets_the_live_one(present: frozenset[str]) -> None:
    live = newest_first(present)[0]
    table = RoutingTable().with_routes({"fraud": Route(live, present)})
    assert pick(table, "fraud") == live == str(max(map(int, present)))


@given(versions, st.integers(1, 99).map(str))
def test_a_version_is_answered_by_itself_or_not_at_all(present: frozenset[str], asked: str) -> None:
    table = RoutingTable().with_routes({"fraud": Route(newest_first(present)[0], present)})
    if asked in present:
        assert pick(table, "fraud", asked) == asked
    else:
        with pytest.raises(NoRoute, match=f"no version {asked}; known versions"):
            pick(table, "fraud", asked)


def test_an_unknown_model_is_told_the_known_ones() -> None:
    table = RoutingTable().with_routes({"fraud": Route("7", frozenset({"7"}))})
    with pytest.raises(NoRoute, match="no model 'fraude' is served; known models: fraud"):
        pick(table, "fraude")


def test_the_list_of_known_models_in_an_error_is_bounded() -> None:
    table = RoutingTable().with_routes({f"m{i:03}": Route("1", frozenset({"1"})) for i in range(500)})
    with pytest.raises(NoRoute, match="and 480 more$"):
        pick(table, "x")


def test_a_route_needs_a_live_version_that_exists() -> None:
    with pytest.raises(InvalidTable, match="version 9 would answer"):
        Route("9", frozenset({"7", "8"}))


def test_equal_routes_are_no_new_revision() -> None:
    table = RoutingTable().with_routes({"fraud": Route("7", frozenset({"7"}))})
    assert table.with_routes(dict(table.routes)) is table
    assert table.with_routes({}).revision == table.revision + 1
