"""What came of a change of traffic: what is true now, for whom, and how it is taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from router.change import Change, route_of
from router.entry import Entry, change_document
from serving.clock import utc
from serving.control.roster import Outcome


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a change.

    `confirmed` means: no request that arrives anywhere from now on is answered as before the change.
    Every replica has then acknowledged the revision, is known to be dead, or may no longer answer.

    Attributes
    ----------
    revision : int
        In force now. Of a dry run, the one that it would have been.
    unchanged : bool
        It was so already; nothing was journalled.
    acknowledged, killed, fenced, missing : tuple of str
        Replicas that answer by this revision, that did not say so in time and were ended, that did not
        and whose lease has run out, and of which nothing is known. `confirmed` is that none is missing.
    ms, steps_ms : float, mapping
        Milliseconds, in all and by step: prepare, hold, journal, publish.
    undo : str
        The command that takes the change back; empty if there was nothing before it.
    """

    revision: int
    change: Change
    by: str
    why: str
    at_us: int
    unchanged: bool = False
    dry_run: bool = False
    acknowledged: tuple[str, ...] = ()
    killed: tuple[str, ...] = ()
    fenced: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    ms: float = 0.0
    steps_ms: Mapping[str, float] = field(default_factory=dict)
    undo: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether the change holds everywhere."""
        return not self.dry_run and not self.missing

    def document(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        route = route_of(self.change)
        return {
            "revision": self.revision,
            "model": self.change.model,
            "verb": str(self.change.verb),
            "route": "" if route is None else str(route),
            "change": change_document(self.change),
            "by": self.by,
            "why": self.why,
            "at": utc(self.at_us),
            "unchanged": self.unchanged,
            "dry_run": self.dry_run,
            "confirmed": self.confirmed,
            "acknowledged": list(self.acknowledged),
            "killed": list(self.killed),
            "fenced": list(self.fenced),
            "missing": list(self.missing),
            "ms": round(self.ms, 3),
            "steps_ms": {step: round(ms, 3) for step, ms in self.steps_ms.items()},
            "undo": self.undo,
        }


class Steps:
    """How long each step of a change took; `told` hears of each as it begins."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._began = self._at = perf_counter()
        self._name = ""
        self.ms: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """End the step before, if there was one, and begin the next."""
        now = perf_counter()
        if self._name:
            self.ms[self._name] = (now - self._at) * 1e3
        self._name, self._at = name, now
        self._told(name)

    @property
    def total_ms(self) -> float:
        """Return the milliseconds since the beginning."""
        return (perf_counter() - self._began) * 1e3


def receipt(
    entry: Entry,
    revision: int,
    outcome: Outcome,
    steps: Steps,
    undo: str,
    *,
    unchanged: bool = False,
    dry_run: bool = False,
) -> Receipt:
    """Return the receipt of an entry, whether it was journalled or only would have been."""
    return Receipt(
        revision,
        entry.change,
        entry.by,
        entry.why,
        entry.at_us,
        unchanged=unchanged,
        dry_run=dry_run,
        acknowledged=outcome.done,
        killed=outcome.killed,
        fenced=outcome.fenced,
        missing=outcome.missing,
        ms=steps.total_ms,
        steps_ms=dict(steps.ms),
        undo=undo,
    )
