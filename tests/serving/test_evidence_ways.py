"""Which requests are evidence, and on which page, by the way that they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.pick import Reason, Wheel, pick
from router.table import WHOLE_BP, Route, RoutingTable, Share, Sticky, everything_to
from serving.errors import Failed
from serving.evidence.book import Book
from serving.evidence.page import WHOLE, Page
from serving.ways import NOBODY, Arm, Tally, Way, ways
from serving.wire import Call, InferRequest

DRAWN = (Reason.SPLIT, Reason.STICKY, Reason.BASELINE)


class Slot(Random):
    """A source of randomness that gives one slot."""

    def __init__(self, slot: int) -> None:
        super().__init__()
        self.slot = slot

    def getrandbits(self, k: int, /) -> int:
        return -(-(self.slot << k) // WHOLE_BP)


class Head:
    """A transport that remembers."""

    named = ""

    def __init__(self, user: bytes) -> None:
        self.headers = ((b"x-user-id", user),)
        self.memory: list[Any] = [None, None]


def request(id_: bytes = b"") -> InferRequest:
    return InferRequest(Call(()), (), None, id_)  # type: ignore[arg-type]


def way(
    route: Route, loaded: Iterable[str], book: Book, slot: int = 0, brakes: dict[str, str] | None = None
) -> Way:
    servables: Any = {"m": {version: f"servable {version}" for version in loaded}}
    tallies: dict[str, Tally] = {}
    return ways(
        RoutingTable(17, {"m": route}),
        servables,
        brakes or {},
        lambda _model, version: tallies.setdefault(version, Tally()),
        Slot(slot),
        lambda model, version, arm: book.page(model, 12, version, arm),
    )["m"]


@st.composite
def routes(draw: st.DrawFn) -> Route:
    versions = draw(st.lists(st.integers(1, 30).map(str), min_size=2, max_size=4, unique=True))
    cut = st.integers(0, WHOLE_BP)
    ends = [0, *sorted(draw(cut) for _ in versions[1:]), WHOLE_BP]
    shares = tuple(Share(v, b - a) for v, a, b in zip(versions, ends[:-1], ends[1:], strict=True))
    sticky = draw(st.sampled_from([None, Sticky(("id",)), Sticky(("header:x-user-id",))]))
    most = max(share.weight_bp for share in shares)
    return Route(shares, (), sticky, baseline_bp=draw(st.integers(0, most)))


def fallen(found: Way, asked: InferRequest, origin: Any = NOBODY) -> Arm:
    return found.static or found.choose(asked, origin)


@given(routes(), st.integers(0, WHOLE_BP - 1), st.none() | st.binary(min_size=1, max_size=12))
def test_what_is_drawn_has_the_page_of_its_arm_and_the_slot_of_its_caller(
    route: Route, slot: int, key: bytes | None
) -> None:
    book = Book()
    found = way(route, [share.version for share in route.shares], book, slot)
    asked = request(key or b"")
    arm = fallen(found, asked, Head(key) if key else NOBODY)
    by_key = None if route.sticky is None or route.whole else key
    want = pick(RoutingTable(17, {"m": route}), "m", key=by_key, drawn=slot)
    assert (arm.version, arm.reason) == (want.version, want.reason)
    assert arm.stamp == f"{want.version};17;{want.reason}".encode()
    assert asked.slot == (Wheel("m").slot(by_key) if by_key is not None else -1)
    if want.reason in DRAWN:
        assert arm.page is not None
        baseline = want.reason is Reason.BASELINE
        assert arm.page.of == ("m", 12, want.version, "baseline" if baseline else "split")
        assert arm.page.keyed == (route.sticky is not None)
    else:
        assert (arm.page is not None) == (want.reason is Reason.STATIC)
        assert arm.page is None or arm.page.of == ("m", 12, want.version, WHOLE)


@given(routes(), st.data())
def test_where_a_version_is_missing_nothing_counts(route: Route, data: st.DataObject) -> None:
    live = [share.version for share in route.shares if share.weight_bp]
    lost = data.draw(st.sampled_from(live))
    slot = data.draw(st.integers(0, WHOLE_BP - 1))
    found = way(route, [share.version for share in route.shares if share.version != lost], Book(), slot)
    assert fallen(found, request()).page is None


@given(routes(), st.integers(0, WHOLE_BP - 1))
def test_named_pinned_and_braked_requests_never_count_and_those_of_a_whole_by_themselves(
    route: Route, slot: int
) -> None:
    book, loaded = Book(), [share.version for share in route.shares]
    found = way(route, loaded, book, slot)
    assert all(arm.page is None for arm in found.named.values())
    braked = way(route, loaded, book, slot, {"m": ""})
    assert fallen(braked, request()).page is None
    assert fallen(way(Route(route.shares, pinned=loaded[0]), loaded, book, slot), request()).page is None
    page = fallen(way(everything_to(loaded[0]), loaded, book, slot), request()).page
    assert page is not None
    assert page.of.arm == WHOLE


@given(routes())
def test_the_usual_version_is_the_one_with_the_most_traffic_whatever_is_answered_apart(route: Route) -> None:
    found = way(route, [share.version for share in route.shares], Book())
    assert found.usual.version == route.primary
    assert (found.baseline is not None) == (route.baseline_bp > 0 and not route.whole)
    if found.baseline is not None:
        assert (found.baseline.version, found.baseline.reason) == (route.primary, Reason.BASELINE)


def test_the_baseline_arm_counts_into_its_version_s_share() -> None:
    route = Route((Share("8", 2000), Share("7", 8000)), baseline_bp=2000)
    drawn: Counter[str] = Counter()
    for slot in range(0, WHOLE_BP, 10):
        found = way(route, "78", Book(), slot)
        arm = found.choose(request(), NOBODY)
        drawn[arm.stamp.decode()] += 1
        assert arm.tally.drawn == 1
    assert drawn == {"8;17;split": 200, "7;17;baseline": 200, "7;17;split": 600}


def test_who_is_remembered_by_a_connection_keeps_its_slot() -> None:
    route = Route((Share("8", 5000), Share("7", 5000)), (), Sticky(("header:x-user-id",)))
    found, head = way(route, "78", Book()), Head(b"somebody")
    arm = found.choose(request(), head)
    assert head.memory == [found, (arm, Wheel("m").slot(b"somebody"))]


@pytest.mark.parametrize("slot", [-1, 4])
def test_what_fails_before_it_reaches_a_lane_counts_where_it_was_drawn(slot: int) -> None:
    route = Route((Share("8", 5000), Share("7", 5000)), (), Sticky(("id",)))
    found = way(route, "78", Book())
    asked = request()
    arm = found.choose(asked, NOBODY)
    asked.slot = slot
    arm.fail(asked, Failed("no"))
    assert isinstance(arm.page, Page)
    assert arm.page.counts().events("failure") == 1
    assert bool(arm.page.counts().callers) == (slot >= 0)
    found.named["8"].fail(asked, Failed("no"))
