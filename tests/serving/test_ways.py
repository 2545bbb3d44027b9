"""Which way a request takes: the same as the router's own decision, and what happens where it cannot be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.pick import Reason, Wheel, pick
from router.table import WHOLE_BP, Route, RoutingTable, Share, Sticky, everything_to
from serving import ways as module
from serving.errors import Invalid, Unavailable
from serving.ways import NOBODY, Tally, Way, asked_for, ways
from serving.wire import Call, InferRequest


class Fixed(Random):
    """A source of randomness that gives the slot it was told."""

    def __init__(self, slot: int = 0) -> None:
        super().__init__()
        self.slot = slot

    def getrandbits(self, k: int, /) -> int:
        return -(-(self.slot << k) // WHOLE_BP)


class Head:
    """What a transport tells of a request."""

    def __init__(self, named: str = "", headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.named = named
        self.headers = tuple(headers)
        self.memory: list[Any] = [None, None]


def request(id_: bytes = b"", **parameters: Any) -> InferRequest:
    return InferRequest(Call((), parameters=tuple(parameters.items())), (), None, id_)  # type: ignore[arg-type]


def table(route: Route, **aliases: str) -> RoutingTable:
    return RoutingTable(17, {"m": route}, {"m": MappingProxyType(aliases)} if aliases else {})


def way(
    route: Route | None,
    loaded: Iterable[str],
    random: Random | None = None,
    brakes: dict[str, str] | None = None,
    **aliases: str,
) -> Way:
    given = table(route, **aliases) if route is not None else RoutingTable()
    servables: Any = {"m": {version: f"servable {version}" for version in loaded}}
    tallies: dict[str, Tally] = {}
    return ways(
        given,
        servables,
        brakes or {},
        lambda _m, version: tallies.setdefault(version, Tally()),
        random or Fixed(),
    )["m"]


@st.composite
def routes(draw: st.DrawFn) -> Route:
    versions = draw(st.lists(st.integers(1, 30).map(str), min_size=1, max_size=5, unique=True))
    cuts = sorted(
        draw(st.lists(st.integers(0, WHOLE_BP), min_size=len(versions) - 1, max_size=len(versions) - 1))
    )
    ends = [0, *cuts, WHOLE_BP]
    shares = tuple(Share(v, b - a) for v, a, b in zip(versions, ends[:-1], ends[1:], strict=True))
    sticky = draw(
        st.none() | st.just(Sticky(("header:x-user-id", "id"), draw(st.text("abc019 -", max_size=5))))
    )
    pinned = draw(st.sampled_from(["", *versions]))
    return Route(shares, (), sticky, pinned)


@given(routes(), st.integers(0, WHOLE_BP - 1), st.none() | st.binary(min_size=1, max_size=12))
def test_a_way_leads_where_the_router_says(route: Route, slot: int, key: bytes | None) -> None:
    found = way(route, [share.version for share in route.shares], Fixed(slot))
    arm = found.static or found.choose(request(key or b""), NOBODY)
    want = pick(table(route), "m", key=key, drawn=slot)
    assert (arm.version, arm.reason) == (want.version, want.reason)
    assert arm.stamp == f"{want.version};{want.revision};{want.reason}".encode()


@given(routes(), st.binary(min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_one_caller_gets_one_version_however_it_is_known(route: Route, user: bytes, random: Random) -> None:
    if route.whole or route.sticky is None:
        return
    found = way(route, [share.version for share in route.shares], random)
    by_header = {found.choose(request(), Head(headers=[(b"x-user-id", user)])).version for _ in range(3)}
    by_id = {found.choose(request(user), NOBODY).version}
    assert by_header == by_id
    assert len(by_header) == 1


def test_the_first_key_that_a_request_has_is_its_caller_s() -> None:
    route = Route((Share("2", 5000), Share("1", 5000)), (), Sticky(("parameter:tenant", "header:x-user-id")))
    wheel = Wheel("m", "")
    users = [b"%d" % number for number in range(50)]
    found = way(route, "12", Random(1))
    for user in users:
        head = Head(headers=[(b"accept", b"*/*"), (b"x-user-id", user)])
        expected = "2" if wheel.slot(user) < 5000 else "1"
        assert found.choose(request(), head).version == expected
        assert (
            found.choose(request(tenant=user.decode()), Head(headers=[(b"x-user-id", b"other")])).version
            == expected
        )


def test_a_request_without_a_key_is_drawn_at_random_and_counted_so() -> None:
    route = Route((Share("2", 2500), Share("1", 7500)), (), Sticky(("header:x-user-id",)))
    found = way(route, "12", Random(5))
    drawn = Counter(found.choose(request(), NOBODY).reason for _ in range(400))
    assert drawn == {Reason.SPLIT: 400}
    assert found._drawn[0].tally.drawn + found._drawn[1].tally.drawn == 400
    assert found._drawn[0].tally.held == 0


def test_zero_weight_is_never_drawn() -> None:
    found = way(Route((Share("3", 0), Share("2", 5000), Share("1", 5000))), "123", Random(3))
    assert {found.choose(request(), NOBODY).version for _ in range(2000)} == {"1", "2"}
    assert found.named["3"].servable is not None


def test_without_a_decision_the_highest_version_answers() -> None:
    found = way(None, ["9", "10", "2"])
    assert found.static is not None
    assert (found.static.version, found.static.reason, found.static.stamp) == (
        "10",
        Reason.DEFAULT,
        b"10;0;default",
    )


def test_what_is_not_loaded_falls_to_the_stable_version_and_never_the_other_way_round() -> None:
    route = Route((Share("2", 1000), Share("1", 9000)))
    lost_canary = way(route, ["1"], Fixed(0)).choose(request(), NOBODY)
    assert (lost_canary.version, lost_canary.reason) == ("1", Reason.FALLBACK)
    lost_stable = way(route, ["2"], Fixed(9999)).choose(request(), NOBODY)
    assert lost_stable.servable is None
    with pytest.raises(Unavailable, match="version 1 of model 'm' is not loaded here"):
        lost_stable.lost("m")


def test_a_version_that_has_everything_and_is_not_loaded_answers_nothing() -> None:
    found = way(everything_to("3"), ["2"])
    assert found.static is None
    assert found.choose(request(), NOBODY).servable is None


@pytest.mark.parametrize(("brake", "version"), [("", "1"), ("2", "2")])
def test_a_brake_stops_at_the_stable_version_or_the_one_it_names(brake: str, version: str) -> None:
    found = way(Route((Share("2", 1000), Share("1", 9000))), "12", brakes={"m": brake})
    assert found.static is not None
    assert (found.static.version, found.static.reason) == (version, Reason.BRAKE)


def test_a_brake_at_a_version_that_is_not_loaded_changes_nothing() -> None:
    found = way(everything_to("1"), "1", brakes={"m": "7"})
    assert found.static is not None
    assert found.static.reason is Reason.STATIC


def test_an_alias_names_the_version_that_it_means() -> None:
    found = way(everything_to("1"), "12", champion="1", challenger="2", lost="9")
    assert (found.named["@challenger"].version, found.named["@challenger"].reason) == ("2", Reason.NAMED)
    assert found.named["@lost"].servable is None


def test_a_request_s_parameters_name_a_version_or_an_alias() -> None:
    assert asked_for((("turnout_version", 7),)) == asked_for((("turnout_version", "7"),)) == "7"
    assert asked_for((("turnout_alias", "champion"),)) == "@champion"
    assert asked_for((("other", 1),)) == ""
    with pytest.raises(Invalid, match="send one"):
        asked_for((("turnout_alias", "champion"), ("turnout_version", "7")))


def test_what_is_remembered_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOTS_MAX", 8)
    slots: module.Slots[Head] = module.Slots()
    heads = [Head() for _ in range(50)]
    assert [slots.of(head, lambda _head, at=at: at) for at, head in enumerate(heads)] == list(range(50))
    assert len(slots._known) <= 8
