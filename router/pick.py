"""Which version answers this request? The decision itself, without caches: serving/ways.py holds those."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from zlib import crc32

from router.table import WHOLE_BP, NoRoute, Route, RoutingTable, known

_BITS_64 = (1 << 64) - 1


class Reason(StrEnum):
    """Why a version answered; told in the answer's ``turnout-route`` header."""

    STATIC = "static"
    """It has all of the traffic."""
    SPLIT = "split"
    """It was drawn at random, by its weight."""
    STICKY = "sticky"
    """The caller's key fell into its share."""
    BASELINE = "baseline"
    """It fell to the arm of the stable version that the canary is compared with, drawn or by its key."""
    NAMED = "named"
    """The request named the version or an alias of it."""
    PINNED = "pinned"
    """The model is pinned to it."""
    BRAKE = "brake"
    """Somebody pulled the brake on this node."""
    FALLBACK = "fallback"
    """The version that was due is not loaded here, and this is the stable one."""
    DEFAULT = "default"
    """Nobody decided anything for the model: it is the highest version loaded."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided for one request."""

    version: str
    revision: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Wheel:
    """Where a caller's key falls among `WHOLE_BP` slots: the same key always at the same place.

    The CRC of the key is spread by multiply-add-shift (Dietzfelbinger 1996), which is strongly universal:
    over the choice of constants, any two keys fall independently. The constants come from model and salt,
    so that the callers who get one model's canary are not those who get another's.
    """

    model: str
    salt: str = ""
    _factor: int = field(init=False, repr=False, compare=False)
    _addend: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        digest = sha256(f"{self.model}\0{self.salt}".encode()).digest()
        object.__setattr__(self, "_factor", int.from_bytes(digest[:8], "little") | 1)
        object.__setattr__(self, "_addend", int.from_bytes(digest[8:16], "little"))

    def slot(self, key: bytes) -> int:
        """Return the slot of `key`."""
        spread = (crc32(key) * self._factor + self._addend & _BITS_64) >> 32
        return spread * WHOLE_BP >> 32


def version_at(route: Route, slot: int) -> str:
    """Return the version whose share covers `slot`, 0 <= slot < `WHOLE_BP`."""
    return route.shares[bisect_right(route.ends_bp, slot)].version


def pick(
    table: RoutingTable, model: str, named: str = "", *, key: bytes | None = None, drawn: int = 0
) -> Choice:
    """Choose the version that answers a request.

    Parameters
    ----------
    named : str
        A version or an ``@alias`` that the request itself asks for; it is answered by nothing else.
    key : bytes, optional
        The caller's, where the route is sticky and the request has one.
    drawn : int
        A slot drawn uniformly at random, for requests without a key.

    Raises
    ------
    NoRoute
        If the table has no such model, or the model no such alias.
    """
    route = table.routes.get(model)
    if route is None:
        raise NoRoute(f"no model {model!r} is served; {known('models', sorted(table.routes))}")
    if named:
        return Choice(table.resolve(model, named), table.revision, Reason.NAMED)
    if route.pinned:
        return Choice(route.pinned, table.revision, Reason.PINNED)
    if route.whole:
        return Choice(route.whole, table.revision, Reason.STATIC)
    slot, reason = drawn, Reason.SPLIT
    if route.sticky is not None and key is not None:
        slot, reason = Wheel(model, route.sticky.salt).slot(key), Reason.STICKY
    reason = Reason.BASELINE if slot in route.baseline_slots else reason
    return Choice(version_at(route, slot), table.revision, reason)
