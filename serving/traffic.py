"""Who answers in this process as of now: the table that the control gave, the brakes, what is held back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING

from router.names import InvalidName, check_version
from router.table import RoutingTable
from serving.errors import Overloaded
from serving.evidence.page import Page
from serving.share import ShareReading
from serving.ways import Tally, Way, ways

if TYPE_CHECKING:
    from serving.servable import Servable

log = logging.getLogger("turnout.traffic")

FOREVER_NS = (1 << 63) - 1
BRAKE_BYTES_MAX = 64

Servables = Mapping[str, Mapping[str, "Servable"]]
Again = Callable[[], None]
Pages = Callable[[str, int, str, str], Page | None]
"""Returns the page of (model, epoch, version, arm), where it is wanted."""


class Traffic:
    """One process's view of the routing table. Everything happens on the engine's event loop.

    Attributes
    ----------
    ways : dict
        What a request goes by: replaced whole whenever the table, the shelf or a brake changes.
    lease_ns : int
        Until when, by `time.monotonic_ns`, requests may be answered by this table.
    """

    def __init__(
        self,
        held_max: int,
        brakes: Path | None = None,
        random: Random | None = None,
        changed: Callable[[RoutingTable, Servables], None] = lambda _table, _servables: None,
        pages: Pages = lambda _model, _epoch, _version, _arm: None,
    ) -> None:
        self.ways: dict[str, Way] = {}
        self.lease_ns = FOREVER_NS
        self.table = RoutingTable()
        self.term = 0
        self.brakes: dict[str, str] = {}
        self.epochs: Mapping[str, int] = MappingProxyType({})
        """By model: the revision that gave it the route that it has."""
        self._servables: Servables = MappingProxyType({})
        self._held_max = held_max
        self._changed = changed
        self._pages = pages
        self._holds: dict[str, list[Again]] = {}
        self._brakes_folder = brakes
        self._brakes_seen_ns = -1
        self._random = random or Random()  # noqa: S311 - callers are dealt to versions, not guarded.
        self._tallies: dict[tuple[str, int, str], Tally] = {}
        self._before: dict[tuple[str, str], tuple[int, int]] = {}
        """What fell to (model, version) in earlier epochs."""

    def __repr__(self) -> str:
        braked = f", braked: {' '.join(self.brakes)}" if self.brakes else ""
        return f"<Traffic revision {self.table.revision} of term {self.term}{braked}>"

    @property
    def servables(self) -> Servables:
        """What can answer."""
        return self._servables

    def carry(self, servables: Servables) -> None:
        """Lead requests to these versions from now on."""
        self._servables = servables
        self._rebuild()

    def renew(self) -> None:
        """Work all ways out anew: other pages are wanted than before."""
        self._rebuild()

    def follow(self, table: RoutingTable, term: int, epochs: Mapping[str, int]) -> None:
        """Answer by `table` from now on, and let go what was held back."""
        self.table, self.term, self.epochs = table, term, epochs
        self._rebuild()
        for model in list(self._holds):
            self.release(model)

    def hold(self, model: str) -> None:
        """Hold requests for `model` back that name no version, until there is a table or `release`."""
        self._holds.setdefault(model, [])
        self._rebuild()

    def release(self, model: str) -> None:
        """Let what was held back go, by the table as it is."""
        held = self._holds.pop(model, [])
        self._rebuild()
        for again in held:
            again()

    @property
    def held(self) -> list[str]:
        """The models whose requests are held back."""
        return list(self._holds)

    def wait(self, way: Way, again: Again) -> None:
        """Hold a request back.

        Raises
        ------
        Overloaded
            If too many are.
        """
        assert way.hold is not None
        if len(way.hold) >= self._held_max:
            raise Overloaded(
                f"{len(way.hold)} requests wait for a change of traffic already; try again later"
            )
        way.hold.append(again)

    def look_at_brakes(self) -> None:
        """Notice a brake that was pulled or let go; costs a system call when there is none to notice."""
        if self._brakes_folder is None:
            return
        try:
            changed_ns = self._brakes_folder.stat().st_mtime_ns
        except OSError:
            changed_ns = 0
        # While there is one its file may be written over; then the folder stays as it is.
        if changed_ns == self._brakes_seen_ns and not self.brakes:
            return
        self._brakes_seen_ns = changed_ns
        brakes = read_brakes(self._brakes_folder)
        if brakes != self.brakes:
            log.warning("event=brakes pulled=%r", brakes)
            self.brakes = brakes
            self._rebuild()

    def tallies(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Return how many requests were drawn and dealt by key, by model and version, in this epoch."""
        counts: dict[str, dict[str, tuple[int, int]]] = {}
        for (model, epoch, version), tally in list(self._tallies.items()):
            if epoch == self.epochs.get(model, 0):
                counts.setdefault(model, {})[version] = (tally.drawn, tally.held)
        return counts

    def shares(self) -> dict[tuple[str, str], ShareReading]:
        """Return what there is to say of each version's share. Any thread may call it."""
        dealt = self.tallies()
        readings = {}
        for model, versions in list(self._servables.items()):
            counts, route = dealt.get(model, {}), self.table.routes.get(model)
            weights = {} if route is None else {share.version: share.weight_bp for share in route.shares}
            all_drawn = sum(drawn for drawn, _ in counts.values())
            all_held = sum(held for _, held in counts.values())
            for version in versions:
                drawn, held = counts.get(version, (0, 0))
                drawn_before, held_before = self._before.get((model, version), (0, 0))
                readings[model, version] = ShareReading(
                    self.epochs.get(model, 0),
                    weights.get(version, 0),
                    drawn,
                    held,
                    all_drawn,
                    all_held,
                    drawn_before + drawn,
                    held_before + held,
                )
        return readings

    def _tally(self, model: str, version: str) -> Tally:
        return self._tallies.setdefault((model, self.epochs.get(model, 0), version), Tally())

    def _page(self, model: str, version: str, arm: str) -> Page | None:
        return self._pages(model, self.epochs.get(model, 0), version, arm)

    def _rebuild(self) -> None:
        current = {}
        for key, tally in self._tallies.items():
            model, epoch, version = key
            if epoch == self.epochs.get(model, 0):
                current[key] = tally
            elif model in self._servables:
                drawn, dealt = self._before.get((model, version), (0, 0))
                self._before[model, version] = (drawn + tally.drawn, dealt + tally.held)
        self._tallies = current
        new = ways(self.table, self._servables, self.brakes, self._tally, self._random, self._page)
        for model, held in self._holds.items():
            if model in new:
                new[model].pause(held)
        self.ways = new
        try:
            self._changed(self.table, self._servables)
        except Exception:  # A shadow that cannot be started must not keep a table from being acknowledged.
            log.exception("event=taps_not_followed revision=%d", self.table.revision)


def read_brakes(folder: Path) -> dict[str, str]:
    """Return the models whose brake is pulled, with the version meant; empty is the stable one.

    A file whose content is no version counts as a brake all the same: whoever wrote it meant to stop.
    """
    brakes = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return {}
    for path in paths:
        name = path.name
        if name.startswith("."):
            continue
        try:
            with path.open("rb") as file:
                text = file.read(BRAKE_BYTES_MAX).decode("latin-1").strip()
            brakes[name] = check_version(text) if text else ""
        except OSError:
            continue
        except InvalidName as error:
            log.warning("event=brake_unclear model=%s reason=%r: the stable version it is", name, str(error))
            brakes[name] = ""
    return brakes
