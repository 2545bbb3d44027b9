"""Which routes, names and journals do the laws of the router hold for? All that can be, small ones first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from hypothesis import strategies as st

from router.change import Change, Remove, SetAlias, SetRollout, SetRoute
from router.entry import Entry
from router.history import History
from router.plan import AbortPolicy, Analysis, Pause, Plan, SetMirror, SetWeight
from router.plan import Promote as PromoteStep
from router.rollout import Phase, Reason, Rollout
from router.table import SHADOWS_MAX, SHARES_MAX, WHOLE_BP, Route, Shadow, Share, Sticky
from router.verb import Verb

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
plain_routes = st.builds(Route, shares(), shadows, stickies, st.just("") | versions)
routes = plain_routes | st.builds(
    lambda route, part: replace(
        route, baseline_bp=int(part * max(share.weight_bp for share in route.shares))
    ),
    plain_routes,
    st.floats(0, 1),
)
verbs = st.sampled_from([verb for verb in Verb if verb not in (Verb.ALIAS, Verb.REMOVE)])
steps = st.lists(
    st.builds(SetWeight, st.integers(0, WHOLE_BP))
    | st.builds(SetMirror, st.integers(0, WHOLE_BP))
    | st.builds(Pause, st.none() | st.floats(0.5, 1e6))
    | st.builds(Analysis, st.floats(0.5, 1e6), st.just(()) | st.just(("wrong",))),
    max_size=6,
)
METRICS = ({"name": "wrong", "tolerance": 1.1}, {"name": "failure"})
verdict_documents = st.none() | st.just({"word": "Failed", "counts": [[5, 8, 12]], "log10_e": 2.5})


@st.composite
def plans(draw: st.DrawFn, model: str = "digits", candidate: str = "8") -> Plan:
    return Plan(
        draw(st.sampled_from(["canary", "a rollout"])),
        model,
        candidate,
        (*draw(steps), PromoteStep()),
        draw(st.sampled_from(AbortPolicy)),
        draw(st.sampled_from([0.01, 0.05])),
        metrics=METRICS,
        baseline=draw(st.booleans()),
        watch_s=draw(st.sampled_from([0.0, 60.0])),
        cool_down_s=draw(st.sampled_from([0.0, 3600.0])),
    )


rollouts = st.builds(
    Rollout,
    plans(),
    st.integers(1, 2**40),
    versions,
    routes,
    st.sampled_from(Phase),
    st.integers(0, 7),
    st.integers(0, 2**50),
    st.integers(0, 2**50),
    st.sampled_from(Reason),
    st.just("") | st.just("it failed"),
    st.none() | st.just({"late_ns": [1, 2, 3], "confidence": 0.5}),
    verdict_documents,
)
changes: st.SearchStrategy[Change] = (
    st.builds(SetRoute, verbs, models, routes)
    | st.builds(SetRollout, verbs, models, rollouts, st.none() | routes)
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
