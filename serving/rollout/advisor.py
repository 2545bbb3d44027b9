"""Is the version that a rollback goes to healthy on today's requests? Asked before a rollback, and after it.

The data may have changed for the stable version, too. But traffic that has to go back does not wait for that:
the advice of a moment ago is in the verdict, and the advice of afterwards is told when it is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from router.rollout import Rollout, Verdict
from serving.alerts.posted import of_advice

if TYPE_CHECKING:
    from serving.alerts.alerts import Alerts
    from serving.replay.asking import Replaying

log = logging.getLogger("turnout.rollout")

SUSPECT = 0.5
"""The part of the bar, in logarithms, from which on evidence makes it worth while to ask."""
AGAIN_US = 60_000_000
"""How often it is asked at most."""
REPORT = "report"


class Advisor:
    """Asks, and remembers what it was told. On the control's loop.

    Parameters
    ----------
    now_us : callable
        The time, in microseconds of Unix time.
    """

    def __init__(self, replaying: Replaying, alerts: Alerts, now_us: Callable[[], int]) -> None:
        self._replaying = replaying
        self._alerts = alerts
        self._now_us = now_us
        self._asked_us: dict[str, int] = {}
        self._told: dict[str, Mapping[str, Any]] = {}
        """By model: the latest advice, without its report."""
        self._asking: set[asyncio.Task[None]] = set()

    def advised(self, rollout: Rollout, verdict: Verdict) -> Verdict:
        """Return a verdict with the latest advice in its document, and ask for it once there is suspicion."""
        model, now_us = rollout.plan.model, self._now_us()
        found = verdict.document["found"]
        suspected = found["e_log10"] >= SUSPECT * found["bar_log10"]
        if suspected and now_us - self._asked_us.get(model, 0) >= AGAIN_US:
            self._asked_us[model] = now_us
            self._begin(rollout, 0)
        told = self._told.get(model)
        fits = told is not None and (told["current"], told["target"]) == _between(rollout)
        return replace(verdict, document={**verdict.document, "advice": told}) if fits else verdict

    def after(self, rollout: Rollout, revision: int) -> None:
        """Have everybody told how the version does that traffic went back to."""
        self._begin(rollout, revision)

    def close(self) -> None:
        """Wait for no answer any more."""
        for task in self._asking:
            task.cancel()

    def _begin(self, rollout: Rollout, revision: int) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(rollout, revision))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, rollout: Rollout, revision: int) -> None:
        model = rollout.plan.model
        advice = await self._replaying.advice(model, *_between(rollout))
        self._told[model] = {name: value for name, value in advice.items() if name != REPORT}
        log.info("event=advice model=%s healthy=%s", model, advice["healthy"])
        if revision:
            self._alerts.post(of_advice(advice, revision, self._now_us()))


def _between(rollout: Rollout) -> tuple[str, str]:
    return rollout.plan.candidate, rollout.stable
