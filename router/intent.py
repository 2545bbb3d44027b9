"""What does a user ask for, and which change is that as things stand?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from router.change import Change, Refused, SetAlias, SetRollout, SetRoute, route_of
from router.history import History
from router.names import check_named, check_version
from router.rollout_intent import RolloutIntent, decide_rollout
from router.table import (
    WHOLE_BP,
    NoRoute,
    Route,
    RoutingTable,
    Shadow,
    Share,
    Sticky,
    everything_to,
    known,
)
from router.verb import Verb


@dataclass(frozen=True, slots=True)
class Adopt:
    """Answer a model that has no route with `version`."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Take:
    """Let a version take over that is newer than all that ever had traffic."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Split:
    """Divide the traffic: named versions and their weights in basis points, which add up to `WHOLE_BP`."""

    model: str
    weights: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Mirror:
    """Give versions a copy of some requests: what shadows now is exactly this. None ends all shadows."""

    model: str
    shadows: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Stick:
    """Let requests of one caller get one version, or draw each at random if `sticky` is None."""

    model: str
    sticky: Sticky | None


@dataclass(frozen=True, slots=True)
class Promote:
    """Give a version all of the traffic; it must have been seen by some of it."""

    model: str
    named: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """Go back: to the version `to`, to the whole route as of a revision, or to the last known good."""

    model: str
    to: str = ""
    to_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """Send everything that names no version to one, and leave the shares for later."""

    model: str
    named: str


@dataclass(frozen=True, slots=True)
class Unpin:
    """Let the shares count again."""

    model: str


@dataclass(frozen=True, slots=True)
class Alias:
    """Let an alias mean a version, or nothing."""

    model: str
    alias: str
    version: str | None


Intent = Adopt | Take | Split | Mirror | Stick | Promote | Rollback | Pin | Unpin | Alias | RolloutIntent


def decide(history: History, intent: Intent) -> Change:
    """Return the change that `intent` is as things stand.

    Raises
    ------
    Refused
        If it makes no sense; the message says what would.
    InvalidName, InvalidTable
        If it names what cannot be.
    """
    match intent:
        case Adopt(model, version):
            if model in history.table.routes:
                raise Refused(f"{model!r} has a route already")
            return SetRoute(Verb.ADOPT, model, everything_to(version))
        case Take(model, version):
            return SetRoute(Verb.TAKE, model, _take(history, model, version))
        case Alias(model, alias, version):
            return SetAlias(model, alias, version)
        case Rollback():
            return SetRoute(Verb.ROLLBACK, intent.model, _back(history, intent))
        case Unpin(model):
            return SetRoute(Verb.UNPIN, model, replace(_route(history, model), pinned=""))
        case Pin(model, named):
            version = _resolve(history, model, named)
            return SetRoute(Verb.PIN, model, replace(_route(history, model), pinned=version))
        case Split(model, weights):
            return SetRoute(Verb.SPLIT, model, _split(history, model, weights))
        case Mirror(model, shadows):
            listed = tuple(Shadow(_resolve(history, model, named), bp) for named, bp in shadows)
            return SetRoute(Verb.SHADOW, model, replace(_unpinned(history, model), shadows=listed))
        case Stick(model, sticky):
            return SetRoute(Verb.STICK, model, replace(_unpinned(history, model), sticky=sticky))
        case Promote(model, named):
            return SetRoute(Verb.PROMOTE, model, _promote(history, model, named))
        case _:
            return decide_rollout(history, intent)


def _split(history: History, model: str, weights: tuple[tuple[str, int], ...]) -> Route:
    before = _unpinned(history, model)
    shares = tuple(Share(_resolve(history, model, named), bp) for named, bp in weights)
    new = {share.version for share in shares if share.weight_bp} - {share.version for share in before.shares}
    # A shadow that becomes live has done its work; a live version that shadows itself measures noise.
    shadows = tuple(shadow for shadow in before.shadows if shadow.version not in new)
    return Route(shares, shadows, before.sticky)


def _take(history: History, model: str, version: str) -> Route:
    before = _unpinned(history, model)
    newest = max((int(each) for each in history.seen(model)), default=0)
    if not before.whole or int(version) <= newest:
        raise Refused(f"{model}@{version} does not take over: {before}, and version {newest} had traffic")
    return Route((Share(version, WHOLE_BP),), before.shadows, before.sticky)


def _promote(history: History, model: str, named: str) -> Route:
    before = _unpinned(history, model)
    version = _resolve(history, model, named)
    if version not in before.versions:
        raise Refused(
            f"{model}@{version} takes no traffic and shadows none, so nothing vouches for it; "
            f"if it is meant nevertheless: turnout split {model} {version}=100%"
        )
    shadows = tuple(shadow for shadow in before.shadows if shadow.version != version)
    return Route((Share(version, WHOLE_BP),), shadows, before.sticky)


def _back(history: History, intent: Rollback) -> Route:
    model = intent.model
    if intent.to and intent.to_revision is not None:
        raise Refused("a rollback goes to a version or to a revision, not to both")
    current = _route(history, model)
    if intent.to_revision is not None:
        earlier = history.at(intent.to_revision).routes.get(model)
        if earlier is None:
            raise Refused(f"{model!r} had no route as of revision {intent.to_revision}")
        return earlier
    if intent.to and intent.to != "last-good":
        return Route((Share(_resolve(history, model, intent.to), WHOLE_BP),), sticky=current.sticky)
    version = history.last_good(model)
    if not version:
        raise Refused(
            f"{model!r} has no last known good version: none but {current.whole or current.primary} ever "
            f"had all of its traffic; say which one is meant with --to VERSION"
        )
    return Route((Share(version, WHOLE_BP),), sticky=current.sticky)


def _route(history: History, model: str) -> Route:
    route = history.table.routes.get(model)
    if route is None:
        raise Refused(f"no route for {model!r}; {known('models', sorted(history.table.routes))}")
    return route


def _unpinned(history: History, model: str) -> Route:
    route = _route(history, model)
    if route.pinned:
        raise Refused(
            f"{model!r} is pinned to version {route.pinned}, so this would change nothing; "
            f"first: turnout unpin {model}"
        )
    return route


def _resolve(history: History, model: str, named: str) -> str:
    check_named(named)
    try:
        return check_version(history.table.resolve(model, named))
    except NoRoute as error:
        raise Refused(str(error)) from None


def undo(before: RoutingTable, change: Change) -> str:
    """Return the command that takes `change` back, given the table before it; empty if there is none."""
    match change:
        case SetRoute(model=model) | SetRollout(model=model) if route_of(change) and model in before.routes:
            return f"turnout rollback {model} --to-revision {before.revision}"
        case SetAlias(model=model, alias=alias):
            version = before.aliases.get(model, {}).get(alias)
            return f"turnout alias {model} {alias}={version or ''}"
        case _:
            return ""
