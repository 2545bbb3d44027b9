"""What can happen to a routing table, as the journal has it: each change holds its whole result.

What a user asks for ("back to the last good one") is decided once, in `router.intent`, and journalled
as what came of it. So a fold over the journal gives the same table whatever later releases decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

from router.names import check_alias, check_version
from router.table import Route, RoutingTable, known


class Refused(ValueError):
    """The change makes no sense as things stand; nothing was changed. The message is for the caller."""


class Verb(StrEnum):
    """What was asked for."""

    ADOPT = "adopt"
    """The first version of a model was found; it answers."""
    TAKE = "take"
    """A newer version was found, and configuration says that it takes over."""
    SPLIT = "split"
    SHADOW = "shadow"
    STICK = "stick"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PIN = "pin"
    UNPIN = "unpin"
    ALIAS = "alias"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Answer `model` with exactly this route. `verb` says how it came about."""

    verb: Verb
    model: str
    route: Route


@dataclass(frozen=True, slots=True)
class SetAlias:
    """Let `alias` mean `version` of `model`, or nothing if that is None."""

    model: str
    alias: str
    version: str | None
    verb: Verb = Verb.ALIAS

    def __post_init__(self) -> None:
        check_alias(self.alias)
        if self.version is not None:
            check_version(self.version)


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget the route of `model`."""

    model: str
    verb: Verb = Verb.REMOVE


Change = SetRoute | SetAlias | Remove


def apply(table: RoutingTable, change: Change) -> RoutingTable:
    """Return the table after `change`, one revision later.

    Raises
    ------
    Refused
        If it changes what is not there.
    """
    match change:
        case SetRoute(model=model, route=route):
            return table.with_route(model, route)
        case SetAlias(model=model, alias=alias, version=version):
            return table.with_alias(model, alias, version)
        case Remove(model=model):
            if model not in table.routes:
                raise Refused(f"no route for {model!r}; {known('models', sorted(table.routes))}")
            return table.with_route(model, None)


def fold(changes: Iterable[Change]) -> RoutingTable:
    """Replay `changes` in order."""
    return reduce(apply, changes, RoutingTable())


def is_idle(table: RoutingTable, change: Change) -> bool:
    """Say whether `change` would leave everything as it is, so that there is nothing to journal."""
    after = apply(table, change)
    return (dict(after.routes), dict(after.aliases)) == (dict(table.routes), dict(table.aliases))
