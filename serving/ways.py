"""Which way does a request take here? `router.pick`, worked out once for each model, table and shelf."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from router.pick import Reason, Wheel
from router.table import WHOLE_BP, Route, RoutingTable, newest_first
from serving.calls import Parameter
from serving.errors import Invalid, TurnoutError, Unavailable
from serving.evidence.page import BASELINE, SPLIT, WHOLE, Page
from serving.wire import Call, InferRequest

if TYPE_CHECKING:
    from serving.lane import Lane
    from serving.servable import Servable

SLOTS_MAX = 4096
"""Callers whose slot is remembered, for each parameter by which one can be known."""
ALIAS_PARAMETER, VERSION_PARAMETER = "turnout_alias", "turnout_version"

Header = tuple[bytes, bytes]
Pages = Callable[[str, str, str], Page | None]
"""Returns the page of (model, version, arm), where it is wanted."""


class Origin(Protocol):
    """What the transport tells of a request beside its body: HTTP's head, gRPC's metadata."""

    @property
    def named(self) -> str:
        """The version or the ``@alias`` that it asks for; empty if it asks for none."""

    @property
    def headers(self) -> Sequence[Header]:
        """Its headers: names in lower case, and values."""

    @property
    def memory(self) -> list[Any]:
        """Two places for whoever routes. It may be one object for requests that say the same."""


class Nobody:
    """An origin that says nothing."""

    named = ""
    headers: Sequence[Header] = ()

    @property
    def memory(self) -> list[Any]:
        """Nothing is remembered of nobody."""
        return [None, None]


NOBODY = Nobody()


class Tally:
    """How many requests fell to a version since its model's route was last changed."""

    __slots__ = ("drawn", "held")

    def __init__(self) -> None:
        self.drawn = 0
        """At random: with the version's weight as their probability."""
        self.held = 0
        """By their caller's key."""


class Arm:
    """A version as a way leads to it, and the stamp that its answers get.

    Attributes
    ----------
    servable : Servable or None
        None where the version is not loaded here; then `lost` says so.
    page : Page or None
        Where it is counted what becomes of the requests that fall to it.
    lane : Lane or None
        The lane of those requests, where it is not the version's usual one.
    """

    __slots__ = ("lane", "page", "reason", "servable", "stamp", "tally", "version")

    def __init__(
        self,
        version: str,
        servable: Servable | None,
        revision: int,
        reason: Reason,
        tally: Tally,
        page: Page | None = None,
    ) -> None:
        self.version = version
        self.servable = servable
        self.reason = reason
        self.stamp = f"{version};{revision};{reason}".encode()
        self.tally = tally
        self.page = page
        self.lane: Lane | None = None

    def fail(self, request: InferRequest, error: TurnoutError) -> None:
        """Count a request that fell to this version and did not get as far as a lane."""
        if self.page is not None:
            self.page.end(error, request.slot)

    def lost(self, model: str) -> NoReturn:
        """Raise the error for a request that should have been answered by what is not there."""
        raise Unavailable(f"version {self.version} of model {model!r} is not loaded here; try again later")


Subject = TypeVar("Subject")


class Slots(Generic[Subject]):
    """The slots of callers, remembered by the very object that names them. Bounded, forgets all at once."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        # The object is kept with its slot, so no other can come to have its id.
        self._known: dict[int, tuple[Subject, int]] = {}

    def of(self, subject: Subject, find: Callable[[Subject], int]) -> int:
        """Return the slot that `find` found for `subject`, -1 for none."""
        known = self._known.get(id(subject))
        if known is not None:
            return known[1]
        if len(self._known) >= SLOTS_MAX:
            self._known.clear()
        slot = find(subject)
        self._known[id(subject)] = (subject, slot)
        return slot


class Caller:
    """Finds the slot of a request's caller by the keys of a route's stickiness."""

    __slots__ = ("_finders", "_wheel", "by_origin")

    def __init__(self, model: str, route: Route) -> None:
        assert route.sticky is not None
        self._wheel = Wheel(model, route.sticky.salt)
        self._finders = [self._finder(key) for key in route.sticky.keys]
        self.by_origin = len(self._finders) == 1 and route.sticky.keys[0].startswith("header:")
        """Whether the origin alone says who the caller is."""

    def slot(self, request: InferRequest, origin: Origin) -> int:
        """Return the slot, -1 if the request has none of the keys."""
        for find in self._finders:
            slot = find(request, origin)
            if slot >= 0:
                return slot
        return -1

    def _finder(self, key: str) -> Callable[[InferRequest, Origin], int]:
        kind, _, name = key.partition(":")
        if kind == "header":
            header = name.lower().encode()

            def in_headers(_request: InferRequest, origin: Origin) -> int:
                value = next((value for each, value in origin.headers if each == header), b"")
                return self._wheel.slot(value) if value else -1

            return in_headers
        if kind == "parameter":
            of_call: Slots[Call] = Slots()

            def in_parameters(call: Call) -> int:
                value = dict(call.parameters).get(name)
                return self._wheel.slot(str(value).encode()) if value is not None else -1

            return lambda request, _origin: of_call.of(request.call, in_parameters)
        return lambda request, _origin: self._wheel.slot(request.id) if request.id else -1


class Way:
    """How requests for one model are answered, as of one table and one shelf.

    Attributes
    ----------
    static : Arm or None
        Answers everything that names no version, if that is decided and loaded.
    named : mapping
        The arms by version, and by alias with its ``@``.
    usual : Arm
        By which the model is described to whoever names no version.
    baseline : Arm or None
        The part of the stable version that is answered apart from the rest.
    hold : list or None
        Where requests wait while a change is made everywhere at once.
    """

    __slots__ = (
        "_caller", "_dealt", "_drawn", "_ends_bp", "_random_bits",
        "baseline", "hold", "model", "named", "static", "usual",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        static: Arm | None,
        named: Mapping[str, Arm],
        random: Random,
        drawn: Sequence[Arm] = (),
        dealt: Sequence[Arm] = (),
        ends_bp: Sequence[int] = (),
        caller: Caller | None = None,
        usual: Arm | None = None,
    ) -> None:
        self.model = model
        self.static = static
        self.usual = usual or static or drawn[0]
        self.baseline = next((arm for arm in drawn if arm.reason is Reason.BASELINE), None)
        self.named = named
        self.hold: list[Callable[[], None]] | None = None
        self._drawn = drawn
        self._dealt = dealt
        self._ends_bp = ends_bp
        self._caller = caller
        self._random_bits = random.getrandbits

    def pause(self, hold: list[Callable[[], None]]) -> None:
        """Have requests that name no version wait in `hold`."""
        self.hold = hold
        self.static = None

    def choose(self, request: InferRequest, origin: Origin) -> Arm:
        """Return the arm of a request that names no version, where that is not always the same.

        Where the origin alone says who the caller is, it is noted there for the next time.
        """
        caller = self._caller
        if caller is not None:
            slot = caller.slot(request, origin)
            if slot >= 0:
                arm = self._dealt[bisect_right(self._ends_bp, slot)]
                request.slot = slot
                if caller.by_origin:
                    origin.memory[:] = self, (arm, slot)
                arm.tally.held += 1
                return arm
        arm = self._drawn[bisect_right(self._ends_bp, self._random_bits(32) * WHOLE_BP >> 32)]
        arm.tally.drawn += 1
        return arm


def _widest(ends_bp: Sequence[int]) -> int:
    """Return the share with the most traffic; of equals the last, which is the oldest."""
    widths = [end - start for start, end in zip((0, *ends_bp), ends_bp, strict=False)]
    return max(range(len(widths)), key=lambda at: (widths[at], at))


def asked_for(parameters: tuple[tuple[str, Parameter], ...]) -> str:
    """Return the version or the ``@alias`` that a request's own parameters name; empty if they do not.

    Raises
    ------
    Invalid
        If they name two.
    """
    given = dict(parameters)
    version, alias = given.get(VERSION_PARAMETER), given.get(ALIAS_PARAMETER)
    if version is not None and alias is not None:
        raise Invalid(f"both {VERSION_PARAMETER} and {ALIAS_PARAMETER}; send one - at `$.parameters`")
    return str(version) if version is not None else f"@{alias}" if alias is not None else ""


def ways(
    table: RoutingTable,
    servables: Mapping[str, Mapping[str, Servable]],
    brakes: Mapping[str, str],
    tallies: Callable[[str, str], Tally],
    random: Random,
    pages: Pages = lambda _model, _version, _arm: None,
) -> dict[str, Way]:
    """Work out the way of every model that is loaded.

    Parameters
    ----------
    brakes : mapping
        Models whose brake is pulled on this node, with the version that is meant, empty for the stable one.
    tallies : callable
        Returns the tally of (model, version).
    pages : callable, optional
    """
    return {
        model: _way(model, table, versions, brakes.get(model), tallies, random, pages)
        for model, versions in servables.items()
    }


def _way(
    model: str,
    table: RoutingTable,
    versions: Mapping[str, Servable],
    brake: str | None,
    tallies: Callable[[str, str], Tally],
    random: Random,
    pages: Pages,
) -> Way:
    def arm(version: str, reason: Reason, page: Page | None = None) -> Arm:
        return Arm(version, versions.get(version), table.revision, reason, tallies(model, version), page)

    named = {version: arm(version, Reason.NAMED) for version in versions}
    for alias, version in table.aliases.get(model, {}).items():
        named[f"@{alias}"] = arm(version, Reason.NAMED)
    route = table.routes.get(model)
    if route is None:
        return Way(model, arm(newest_first(versions)[0], Reason.DEFAULT), named, random)
    stopped = (brake or route.primary) if brake is not None else ""
    if stopped and stopped in versions:
        return Way(model, arm(stopped, Reason.BRAKE), named, random)
    if route.whole:
        counted = route.whole in versions and not route.pinned
        page = pages(model, route.whole, WHOLE) if counted else None
        only = arm(route.whole, Reason.PINNED if route.pinned else Reason.STATIC, page)
        return Way(model, only if only.servable else None, named, random, [only], [only], [WHOLE_BP])
    # Where a version is missing requests are not answered as they were drawn, and are no evidence.
    counted = all(each.version in versions for each in route.shares if each.weight_bp)

    def share(version: str, reason: Reason, of: str = SPLIT) -> Arm:
        # What is not there must not cost answers if the stable version is; the reverse is no fair trade.
        lost = version not in versions and route.primary in versions
        if lost:
            return arm(route.primary, Reason.FALLBACK)
        page = pages(model, version, of) if counted else None
        if page is not None:
            page.keyed = route.sticky is not None
        return arm(version, reason, page)

    live, ends_bp = [each.version for each in route.shares], [*route.ends_bp]
    drawn, dealt = ([share(each, reason) for each in live] for reason in (Reason.SPLIT, Reason.STICKY))
    usual = drawn[_widest(ends_bp)]
    if route.baseline_bp:
        at = live.index(route.primary)
        ends_bp.insert(at, route.baseline_slots.stop)
        baseline = share(route.primary, Reason.BASELINE, BASELINE)
        drawn.insert(at, baseline)
        dealt.insert(at, baseline)
    caller = Caller(model, route) if route.sticky is not None else None
    return Way(model, None, named, random, drawn, dealt, ends_bp, caller, usual)
