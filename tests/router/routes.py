"""Which routes, names and journals do the laws of the router hold for? All that can be, small ones first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import strategies as st

from router.change import Change, Remove, SetAlias, SetRoute, Verb
from router.entry import Entry
from router.history import History
from router.table import SHADOWS_MAX, SHARES_MAX, WHOLE_BP, Route, Shadow, Share, Sticky

versions = st.integers(1, 60).map(str) | st.integers(1, 10**18 - 1).map(str)
models = st.sampled_from(["digits", "fraud"])
aliases = st.sampled_from(["champion", "challenger", "a-1", "_"])
salts = st.text(st.characters(exclude_categories=("C", "Z")), max_size=8)
keys = st.lists(
    st.sampled_from(["id", "header:x-user-id", "parameter:u"]), min_size=1, max_size=3, unique=True
)
stickies = st.none() | st.builds(Sticky, keys.map(tuple), salts)


def weights(count: int) -> st.SearchStrategy[list[int]]:
    """`count` weights that add up; many of them are 0."""
    cuts = st.lists(
        st.sampled_from([0, 1, 500, 5000, WHOLE_BP]) | st.integers(0, WHOLE_BP),
        min_size=count - 1,
        max_size=count - 1,
    )
    return cuts.map(lambda each: differences([0, *sorted(each), WHOLE_BP]))


def differences(values: list[int]) -> list[int]:
    return [after - before for before, after in pairwise(values)]


@st.composite
def shares(draw: st.DrawFn, count_min: int = 1, count_max: int = SHARES_MAX) -> tuple[Share, ...]:
    live = draw(st.lists(versions, min_size=count_min, max_size=count_max, unique=True))
    return tuple(map(Share, live, draw(weights(len(live)))))


shadows = st.lists(
    st.builds(Shadow, versions, st.integers(1, WHOLE_BP)),
    max_size=SHADOWS_MAX,
    unique_by=lambda shadow: shadow.version,
).map(tuple)
routes = st.builds(Route, shares(), shadows, stickies, st.just("") | versions)
verbs = st.sampled_from([verb for verb in Verb if verb not in (Verb.ALIAS, Verb.REMOVE)])
changes: st.SearchStrategy[Change] = (
    st.builds(SetRoute, verbs, models, routes)
    | st.builds(SetAlias, models, aliases, st.none() | versions)
    | st.builds(Remove, models)
)
words = st.text(min_size=1, max_size=30).filter(str.strip)


def journalled(history: History, change: Change, at_us: int = 0, term: int = 1) -> Entry:
    """The next entry, added to `history`."""
    entry = Entry(history.revision + 1, term, at_us, "ann", "because", change, history.last_hash)
    history.add(entry)
    return entry


def journal(changes: Iterable[Change]) -> History:
    history = History()
    for at_us, change in enumerate(changes):
        journalled(history, change, at_us)
    return history


def slots(route: Route) -> dict[str, set[int]]:
    """Every slot, by the version that has it: the definition, without a search."""
    owned: dict[str, set[int]] = {}
    start = 0
    for share in sorted(route.shares, key=lambda share: int(share.version), reverse=True):
        owned[share.version] = set(range(start, start + share.weight_bp))
        start += share.weight_bp
    return owned
