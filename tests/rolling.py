"""A pilot for tests that takes no step by itself, beside a control that decides for real; and a verdict of the judge's."""

from __future__ import annotations

from typing import Any

from router.change import Refused
from router.history import History
from router.plan import Plan
from router.rollout import Rollout, Verdict, rollout_document
from router.rollout_intent import Observe, StartRollout
from router.table import Route, Share
from serving.clock import utc
from serving.control.receipt import Receipt
from serving.evidence.counts import Counts
from serving.evidence.page import BASELINE, SPLIT
from serving.rollout.arms import Draw
from serving.rollout.document import plan_of, values_of
from serving.rollout.evidence import Cell
from serving.rollout.facts import Extras
from serving.rollout.judge import judge
from tests.controlling import BEGAN_US, Deciding

DOCUMENT = """\
apiVersion: turnout/v1
kind: Rollout
metadata: {name: digits-8}
spec:
  model: digits
  candidate: 8
  strategy:
    canary:
      steps: [setWeight: 5%, analysis: {within: 10m}, pause, promote]
  metrics:
    - {metric: request-failure}
    - {metric: latency}
    - {metric: wrong, name: labels, critical: false}
    - {metric: false-negative, class: seven, dryRun: true}
    - {name: request-success-rate, thresholdRange: {min: 99}}
    - {metric: drift}
"""
GOOD = (Counts(20_000, 20, timed=20_000, late=(10_000, 2_000, 200), labelled=900, wrong=90),) * 2
"""What a candidate and its baseline arm counted that are alike."""
BAD = (Counts(20_000, 400, timed=20_000, late=(10_000, 2_000, 200), labelled=900, wrong=90), GOOD[1])


def plan(text: str = DOCUMENT) -> Plan:
    """Return the plan of a document."""
    return plan_of(values_of(text))


class Piloting:
    """Says of rollouts what the pilot does, and what it was told to have found."""

    def __init__(self, control: Deciding) -> None:
        self.control = control
        self.now_us = BEGAN_US
        self.verdicts: dict[str, Verdict] = {}
        self.refused: dict[str, Any] | None = None

    async def begin(
        self, plan: Plan, by: str, why: str, *, if_revision: int | None = None, dry_run: bool = False
    ) -> Receipt:
        intent = StartRollout(plan, self.now_us)
        return await self.control.submit(intent, by, why, if_revision=if_revision, dry_run=dry_run)

    async def status(self, model: str) -> dict[str, Any]:
        rollout = self.control.history.rollouts.get(model)
        if rollout is None:
            raise Refused(f"{model!r} has no rollout; begin one: turnout rollout start FILE")
        verdict = self.verdicts.get(model)
        return {
            "model": model,
            "words": str(rollout),
            "route": str(self.control.history.table.routes[model]),
            "since": utc(rollout.since_us),
            "watched": rollout.watched(self.now_us),
            "rollout": rollout_document(rollout),
            "now": None if verdict is None else dict(verdict.document),
            "refused": self.refused,
        }

    def move(self, verdict: Verdict | None = None, model: str = "digits") -> None:
        """Do what is due, as the pilot does."""
        self.control._append(Observe(model, verdict, self.now_us), "turnout", "due")


def verdict_of(
    rollout: Rollout, counted: tuple[Counts, Counts], now_us: int, epoch: int | None = None
) -> Verdict:
    """Return what the judge says of a candidate at 5 % beside a baseline arm, and these counts of the two."""
    epoch = rollout.first + 1 if epoch is None else epoch
    candidate, stable = rollout.plan.candidate, rollout.stable
    cells = {
        Cell(epoch, candidate, SPLIT): counted[0],
        Cell(epoch, stable, BASELINE): counted[1],
        Cell(epoch, stable, SPLIT): sum([counted[1]] * 18, Counts()),
    }
    route = Route((Share(candidate, 500), Share(stable, 9_500)), baseline_bp=500)
    draw = Draw.of(route, candidate, stable)
    assert draw is not None
    return judge(rollout, cells, {epoch: draw}, Extras(heard_us=now_us), now_us)


def rollout_in(history: History, model: str = "digits") -> Rollout:
    """Return how a rollout stands."""
    return history.rollouts[model]
