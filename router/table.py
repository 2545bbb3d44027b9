"""The routing table: which versions of a model may answer, and how much traffic each of them gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING

from router.names import check_alias, check_version

if TYPE_CHECKING:
    from router.rollout import Rollout

WHOLE_BP = 10_000
"""All traffic, in basis points (1 bp = 0.01 %). Integers, so that splits add up exactly."""
SHARES_MAX = 32
SHADOWS_MAX = 8
ALIASES_MAX = 64
KEYS_MAX = 8
SALT_MAX = 128
"""Characters."""
NAMES_SHOWN_MAX = 20


class InvalidTable(ValueError):
    """A table that would send a request nowhere, or to what nobody has. The message is for the caller."""


class NoRoute(LookupError):
    """Nothing is served under that name. The message is for the caller."""


@dataclass(frozen=True, slots=True, order=True)
class VersionRef:
    """A model and one of its immutable versions, written ``fraud@7``."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class Share:
    """A version's slice of live traffic. One of weight 0 stays warm and is answered by if it is named."""

    version: str
    weight_bp: int

    def __post_init__(self) -> None:
        check_version(self.version)
        if not 0 <= self.weight_bp <= WHOLE_BP:
            raise InvalidTable(f"version {self.version} would get {self.weight_bp} bp; 0 to {WHOLE_BP} it is")


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is given a copy of some requests, and whose answers nobody gets.

    One that shadows itself (it is live, too) is the A/A arm: what differs then is noise.
    """

    version: str
    share_bp: int

    def __post_init__(self) -> None:
        check_version(self.version)
        if not 1 <= self.share_bp <= WHOLE_BP:
            raise InvalidTable(
                f"version {self.version} would shadow {self.share_bp} bp; 1 to {WHOLE_BP} it is"
            )


@dataclass(frozen=True, slots=True)
class Sticky:
    """What makes requests those of one caller, so that they get one version.

    `keys` are tried in order: ``header:NAME``, ``parameter:NAME`` or ``id``, which is the request's. A
    request that has none of them is drawn at random. Another `salt` deals all callers anew.
    """

    keys: tuple[str, ...]
    salt: str = ""

    def __post_init__(self) -> None:
        if len(self.salt) > SALT_MAX or not self.salt.isprintable():
            raise InvalidTable(f"the salt has to have {SALT_MAX} printable characters at most")
        if not 1 <= len(self.keys) <= KEYS_MAX:
            raise InvalidTable(f"stickiness needs 1 to {KEYS_MAX} keys, got {len(self.keys)}")
        for key in self.keys:
            kind, _, name = key.partition(":")
            if key != "id" and not (kind in ("header", "parameter") and _is_token(name)):
                raise InvalidTable(
                    f"{key!r} is no key of a caller; header:x-user-id, parameter:NAME and id are"
                )


def _is_token(name: str) -> bool:
    return name.isascii() and 0 < len(name) <= 128 and all(c.isalnum() or c in "-_." for c in name)


@dataclass(frozen=True, slots=True)
class Route:
    """How one model's requests are answered.

    Shares are kept newest version first and lie end to end in a space of `WHOLE_BP` slots, so that the
    newest is at the low end. Hence a version that alone grows keeps every slot that it had, and one
    that alone shrinks gains none.
    """

    shares: tuple[Share, ...]
    shadows: tuple[Shadow, ...] = ()
    sticky: Sticky | None = None
    pinned: str = ""
    """All requests that name no version go to this one, whatever the shares say."""
    baseline_bp: int = 0
    """So much of the primary's share, from its low end on, is answered apart: the arm that a canary is
    compared with. It has batches of its own, so that its latency is not that of larger ones."""
    ends_bp: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, versions, count_max in (
            ("live", [share.version for share in self.shares], SHARES_MAX),
            ("shadow", [shadow.version for shadow in self.shadows], SHADOWS_MAX),
        ):
            if len(set(versions)) != len(versions):
                raise InvalidTable(f"a version is named twice: {', '.join(versions)}")
            if len(versions) > count_max:
                raise InvalidTable(f"{len(versions)} {what} versions are too many; {count_max} can be")
        total_bp = sum(share.weight_bp for share in self.shares)
        if total_bp != WHOLE_BP:
            raise InvalidTable(f"the weights add up to {percent(total_bp)}, not 100%")
        if self.pinned:
            check_version(self.pinned)
        most_bp = max(share.weight_bp for share in self.shares)
        if not 0 <= self.baseline_bp <= most_bp:
            raise InvalidTable(
                f"a baseline arm of {self.baseline_bp} bp is no part of the largest share, {percent(most_bp)}"
            )
        ordered = tuple(sorted(self.shares, key=lambda share: int(share.version), reverse=True))
        object.__setattr__(self, "shares", ordered)
        shadows = tuple(sorted(self.shadows, key=lambda shadow: int(shadow.version), reverse=True))
        object.__setattr__(self, "shadows", shadows)
        # Computed once, for `pick`.
        object.__setattr__(self, "ends_bp", tuple(accumulate(share.weight_bp for share in ordered)))

    @property
    def primary(self) -> str:
        """The version with the most traffic; the older one on a tie."""
        return max(reversed(self.shares), key=lambda share: share.weight_bp).version

    @property
    def baseline_slots(self) -> range:
        """The slots of the baseline arm; none without one."""
        at = [share.version for share in self.shares].index(self.primary)
        start = self.ends_bp[at] - self.shares[at].weight_bp
        return range(start, start + self.baseline_bp)

    @property
    def whole(self) -> str:
        """The version that alone answers what names none, or nothing if there are several."""
        if self.pinned:
            return self.pinned
        return self.primary if max(share.weight_bp for share in self.shares) == WHOLE_BP else ""

    @property
    def versions(self) -> frozenset[str]:
        """Every version that this route needs loaded."""
        named = {share.version for share in self.shares} | {shadow.version for shadow in self.shadows}
        return frozenset(named | ({self.pinned} if self.pinned else set()))

    def __str__(self) -> str:
        words = [f"{share.version}={percent(share.weight_bp)}" for share in self.shares]
        words += [f"shadow:{shadow.version}={percent(shadow.share_bp)}" for shadow in self.shadows]
        words += [f"baseline:{self.primary}={percent(self.baseline_bp)}"] if self.baseline_bp else []
        words += [f"pinned:{self.pinned}"] if self.pinned else []
        return " ".join(words)


def everything_to(version: str) -> Route:
    """Return the route that gives `version` all traffic."""
    return Route((Share(version, WHOLE_BP),))


def percent(bp: int) -> str:
    """Write basis points as people do: ``5%``, ``0.25%``."""
    return f"{bp / 100:.2f}".rstrip("0").rstrip(".") + "%"


Aliases = Mapping[str, str]
"""A model's aliases: name to version."""
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every route, alias and rollout, as of one revision. Replaced whole, never edited."""

    revision: int = 0
    routes: Mapping[str, Route] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, Aliases] = field(default_factory=lambda: MappingProxyType({}))
    rollouts: Mapping[str, Rollout] = field(default_factory=lambda: MappingProxyType({}))
    """By model: the rollout that is under way, or was last. Replicas are not told of it."""

    def __post_init__(self) -> None:
        for model, named in self.aliases.items():
            if len(named) > ALIASES_MAX:
                raise InvalidTable(f"{model!r} would have {len(named)} aliases; {ALIASES_MAX} can be")
            for alias, version in named.items():
                check_alias(alias)
                check_version(version)

    def with_route(self, model: str, route: Route | None) -> RoutingTable:
        """Return the next revision, with this route for `model`, or none."""
        routes = {**self.routes}
        if route is None:
            routes.pop(model, None)
        else:
            routes[model] = route
        return replace(self, revision=self.revision + 1, routes=MappingProxyType(routes))

    def with_alias(self, model: str, alias: str, version: str | None) -> RoutingTable:
        """Return the next revision, with this alias for a version of `model`, or without it."""
        named = {**self.aliases.get(model, _NONE)}
        if version is None:
            named.pop(alias, None)
        else:
            named[alias] = version
        aliases = {**self.aliases, model: MappingProxyType(named)}
        if not named:
            del aliases[model]
        return replace(self, revision=self.revision + 1, aliases=MappingProxyType(aliases))

    def with_rollout(self, model: str, rollout: Rollout) -> RoutingTable:
        """Return this revision with a rollout of `model` that stands so; it is part of a larger change."""
        return replace(self, rollouts=MappingProxyType({**self.rollouts, model: rollout}))

    def needs(self, model: str) -> frozenset[str]:
        """Return the versions of `model` that must be loaded for its route."""
        route = self.routes.get(model)
        return route.versions if route is not None else frozenset()

    def resolve(self, model: str, named: str) -> str:
        """Return the version that `named` means: a number, or an alias with its ``@``.

        Raises
        ------
        NoRoute
            If the model has no such alias.
        """
        if not named.startswith("@"):
            return named
        aliases = self.aliases.get(model, _NONE)
        version = aliases.get(named[1:])
        if version is None:
            raise NoRoute(f"model {model!r} has no alias {named[1:]!r}; {known('aliases', sorted(aliases))}")
        return version


def newest_first(versions: Iterable[str]) -> list[str]:
    """Order version numbers, the highest first."""
    return sorted(versions, key=int, reverse=True)


def known(what: str, names: list[str]) -> str:
    """Say which names there are, but never very many of them."""
    if not names:
        return f"there are no {what}"
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return f"known {what}: {', '.join(names[:NAMES_SHOWN_MAX])}{more}"
