"""The routing table: which versions of a model may answer, and which one does when none is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


class InvalidTable(ValueError):
    """A table that would send a request nowhere, or to a version nobody has."""


class NoRoute(LookupError):
    """Nothing is served under that name. The message is for the caller."""


@dataclass(frozen=True, slots=True)
class Route:
    """How one model's requests are answered.

    `versions` can be addressed by number; `live` answers requests that name none.
    """

    live: str
    versions: frozenset[str]

    def __post_init__(self) -> None:
        if self.live not in self.versions:
            raise InvalidTable(f"version {self.live} would answer, but only {sorted(self.versions)} exist")


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every route, as of one revision. Replaced whole, never edited."""

    revision: int = 0
    routes: Mapping[str, Route] = field(default_factory=lambda: MappingProxyType({}))

    def with_routes(self, routes: Mapping[str, Route]) -> RoutingTable:
        """Return the next revision, with these routes instead; this table if they are the same."""
        if dict(routes) == dict(self.routes):
            return self
        return RoutingTable(self.revision + 1, MappingProxyType(dict(routes)))


def newest_first(versions: frozenset[str]) -> list[str]:
    """Order version numbers, the highest first."""
    return sorted(versions, key=int, reverse=True)


def pick(table: RoutingTable, model: str, version: str = "") -> str:
    """Choose the version that answers a request for `model`, which may name a `version`.

    Raises
    ------
    NoRoute
        If the table has no such model, or the model no such version.
    """
    route = table.routes.get(model)
    if route is None:
        raise NoRoute(f"no model {model!r} is served; {_known('models', sorted(table.routes))}")
    if not version:
        return route.live
    if version not in route.versions:
        known = _known("versions", newest_first(route.versions))
        raise NoRoute(f"model {model!r} has no version {version}; {known}")
    return version


NAMES_SHOWN_MAX = 20


def _known(what: str, names: list[str]) -> str:
    if not names:
        return f"there are no {what}"
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return f"known {what}: {', '.join(names[:NAMES_SHOWN_MAX])}{more}"
