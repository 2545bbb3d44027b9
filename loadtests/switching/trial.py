"""What does a gateway do in one run of many switches under load, with or without faults?"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from loadtests.register import Kill, Request, Switch, Verdict, judge
from loadtests.switching.admin import Admin, Change, RefusedError
from loadtests.switching.asking import MODEL
from loadtests.switching.crowd import crowd

SWITCHES = 100
PAUSE_S = 0.12
"""The mean pause between switches; they are from half of it to three halves."""
OTHER = {1: 2, 2: 1}
LONGER_MAX = 8
"""Where a fault is not over after the last switch, there are up to so many times as many."""
QUIET_S = 0.2
"""Before the first switch and after the last."""


class Fault(Protocol):
    """What is done to a gateway while it is switched."""

    @property
    def kills(self) -> Sequence[Kill]:
        """When replicas were killed, so far."""

    @property
    def count(self) -> int:
        """How many processes were stopped or killed, so far."""

    @property
    def over(self) -> bool:
        """Whether nothing is being done."""

    def before(self, number: int) -> None:
        """Do what is to be done at switch `number`, without holding it up."""

    def end(self) -> None:
        """Wait for what was begun."""


class Nothing:
    """No fault at all."""

    kills: Sequence[Kill] = ()
    count = 0
    over = True

    def before(self, number: int) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that was seen in a run."""

    requests: Sequence[Request]
    changes: Sequence[Change]
    kills: Sequence[Kill]
    refusals: Sequence[str] = ()
    """Switches that the gateway would not make, in its words."""
    faults: int = 0

    @property
    def switches(self) -> list[Switch]:
        """Return the switches as the checker wants them."""
        return [change.switch for change in self.changes]

    @property
    def answered(self) -> list[Change]:
        """Return the changes that got a receipt."""
        return [change for change in self.changes if change.receipt]

    @property
    def per_s(self) -> float:
        """Return the requests a second."""
        first, last = self.requests[0].start_ns, max(request.end_ns for request in self.requests)
        return len(self.requests) / ((last - first) / 1e9)

    def verdict(self) -> Verdict:
        """Let the checker judge."""
        return judge(self.requests, self.switches, self.kills)


def run(
    port: int,
    admin: Admin,
    folder: Path,
    *,
    switches: int = SWITCHES,
    atomic: bool = False,
    think_ms: float = 0.0,
    fault: Fault | None = None,
    seed: int = 0,
) -> Run:
    """Switch between versions 1 and 2 of the register under load, beginning with 1."""
    fault, pauses = fault or Nothing(), random.Random(seed)
    changes, refusals = [admin.switch(MODEL, 2, 1)], list[str]()
    with crowd(port, folder, think_ms) as asked:
        time.sleep(QUIET_S)
        try:
            for number in range(switches * LONGER_MAX):
                if number >= switches and fault.over:
                    break
                fault.before(number)
                before = changes[-1].switch.after
                try:
                    changes.append(_switch(admin, before, OTHER[before], atomic=atomic))
                except RefusedError as error:
                    refusals.append(str(error))
                time.sleep(PAUSE_S * pauses.uniform(0.5, 1.5))
        finally:
            fault.end()
        time.sleep(QUIET_S)
    return Run(asked.requests(), changes, list(fault.kills), refusals, fault.count)


def _switch(admin: Admin, before: int, after: int, *, atomic: bool) -> Change:
    change = admin.switch(MODEL, before, after, atomic=atomic)
    if change.switch.acknowledged_ns is None:
        change = replace(change, happened=admin.traffic(MODEL)["route"] == f"{after}=100%")
    return change
