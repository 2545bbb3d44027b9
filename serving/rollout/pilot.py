"""Who takes a rollout through its steps? A pilot in the control: it gathers, has judged, does what is due.

Its state is the journal's, so that a control which dies in any step goes on there: all that the pilot keeps
is what replicas have counted, and they tell that again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from router.change import Refused
from router.entry import WORDS_MAX
from router.plan import Plan
from router.rollout import Rollout, Verdict, advance, rollout_document
from router.rollout_intent import FreezeTerms, Observe, StallRollout, StartRollout
from router.verb import Verb
from serving.clock import utc
from serving.control.receipt import Receipt
from serving.control.refusals import Lost, Stale
from serving.control.roster import Replica
from serving.control.telling import Line, Said
from serving.labels.reckoning import Standing
from serving.rollout.arms import draws
from serving.rollout.evidence import Evidence
from serving.rollout.facts import Extras
from serving.rollout.gathering import durations_wanted, paired, pairs, totals
from serving.rollout.judge import judge
from serving.rollout.measuring import Measuring, terms_message

if TYPE_CHECKING:
    from router.entry import Entry
    from serving.control.control import Control
    from serving.control.inspection import Inspection
    from serving.labels.feedback import Feedback
    from serving.rollout.advisor import Advisor

log = logging.getLogger("turnout.rollout")
T = TypeVar("T")

OURSELVES = "turnout"
JUDGE_S = 0.5
"""How often rollouts that are under way are judged."""
STALLED_MAX = 5
"""How many times in a row a step may be refused before a person is asked."""


class Rollouts:
    """The room of rollouts; see `serving.control.room.Room`.

    Parameters
    ----------
    folder : Path
        The control's private folder; `NotPrivate` if what is in it is not.
    drift : Inspection, optional
        Who says what drifts.
    labels : Feedback, optional
        Who says what labels said.
    advisor : Advisor, optional
        Who says how the stable version does on today's requests.
    now_us : callable
        The time, in microseconds of Unix time.
    """

    def __init__(
        self,
        folder: Path,
        drift: Inspection | None = None,
        labels: Feedback | None = None,
        advisor: Advisor | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._folder = folder
        self._drift, self._labels, self._advisor = drift, labels, advisor
        self._now_us = now_us
        self._control: Control
        """For the control's loop alone, as all of the following."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._piloting: asyncio.Task[None] | None = None
        self._evidence = Evidence(folder)
        self._measuring = Measuring()
        self._verdicts: dict[str, Verdict] = {}
        """By model: the latest."""
        self._counting: set[str] = set()
        """Models of which replicas were told to count."""
        self._busy: dict[str, asyncio.Task[None]] = {}
        """By model: its rollout is being looked after."""
        self._heard_us: dict[str, int] = {}
        """By model: when a replica that answers for it was there last."""
        self._refused: dict[str, tuple[int, str]] = {}
        """By model whose step cannot be taken: how many times in a row, and why."""

    def __repr__(self) -> str:
        return f"<Rollouts: {len(self._verdicts)} judged, {len(self._refused)} refused>"

    def start(self, control: Control) -> None:
        """Go on with what is under way."""
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._piloting = self._loop.create_task(self._pilot())

    async def close(self) -> None:
        """Write down what was counted, and end."""
        if self._piloting is not None:
            for task in (self._piloting, *self._busy.values()):
                task.cancel()
            if self._advisor is not None:
                self._advisor.close()
            await asyncio.to_thread(lambda: self._evidence.save(final=True))

    def greet(self, line: Line) -> None:
        """Tell a replica what to count."""
        for rollout in self._watched():
            self._counting.add(rollout.plan.model)
            line.send(terms_message(rollout))

    def hear(self, replica: Replica, said: Said) -> None:
        """Take what a replica counted or measured."""
        match said:
            case {"say": "evidence", "told": told}:
                self._evidence.take(said["source"], told)
            case {"say": "measured", "task": task, **rest}:
                replica.tasks[task] = rest

    def note(self, entry: Entry) -> None:
        """Have replicas count what the rollout needs that stands so now."""
        model = entry.change.model
        rollout = self._control.history.rollouts.get(model)
        if rollout is not None:
            self._agree(rollout, on=rollout.watched(self._now_us()))
            self._evidence.forget(model, rollout.first)

    def _agree(self, rollout: Rollout, *, on: bool) -> None:
        """Tell replicas what to count."""
        (self._counting.add if on else self._counting.discard)(rollout.plan.model)
        self._control.roster.send(terms_message(rollout, on=on))

    async def begin(
        self, plan: Plan, by: str, why: str, *, if_revision: int | None = None, dry_run: bool = False
    ) -> Receipt:
        """Begin a rollout, and return when that is journalled. From any event loop."""
        intent = StartRollout(plan, self._now_us())
        submit = self._control.submit
        return await self._here(submit(intent, by, why, if_revision=if_revision, dry_run=dry_run))

    async def status(self, model: str) -> dict[str, Any]:
        """Return how the rollout of a model stands, as plain values; `Refused` without one. From any loop."""
        return await self._here(self._status(model))

    async def _status(self, model: str) -> dict[str, Any]:
        rollout = self._control.history.rollouts.get(model)
        if rollout is None:
            raise Refused(f"{model!r} has no rollout; begin one: turnout rollout start FILE")
        verdict = self._verdicts.get(model)
        times, refusal = self._refused.get(model, (0, ""))
        return {
            "model": model,
            "words": str(rollout),
            "route": str(self._control.history.table.routes.get(model, "")),
            "since": utc(rollout.since_us),
            "watched": rollout.watched(self._now_us()),
            "rollout": rollout_document(rollout),
            "now": None
            if verdict is None
            else {"word": str(verdict.word), "message": verdict.message, **verdict.document},
            "refused": {"times": times, "why": refusal} if times else None,
        }

    async def _here(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the control's loop, from whichever there is."""
        assert self._loop is not None, "it has not been started"
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _watched(self) -> list[Rollout]:
        now_us = self._now_us()
        return [each for each in self._control.history.rollouts.values() if each.watched(now_us)]

    async def _pilot(self) -> None:
        while True:
            await asyncio.sleep(JUDGE_S)
            await self.look()

    async def look(self) -> None:
        """Look after everything that is under way. On the control's loop."""
        watched = self._watched()
        for model in self._counting - {each.plan.model for each in watched}:
            self._agree(self._control.history.rollouts[model], on=False)
        for rollout in watched:
            if rollout.plan.model not in self._busy:
                self._begin(rollout)
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=JUDGE_S)
        try:
            await asyncio.to_thread(self._evidence.save)
        except OSError as error:
            log.error("event=evidence_not_saved reason=%r", str(error))

    def _begin(self, rollout: Rollout) -> None:
        """Look after a rollout by itself: loading what one needs may take minutes; a rollback has none."""
        model = rollout.plan.model
        task = self._busy[model] = asyncio.get_running_loop().create_task(self._look_once(rollout))
        task.add_done_callback(lambda _task: self._busy.pop(model))

    async def _look_once(self, rollout: Rollout) -> None:
        try:
            await self._look_after(rollout)
        except Exception:  # It is judged again.
            log.exception("event=rollout_not_judged model=%s", rollout.plan.model)

    async def _look_after(self, rollout: Rollout) -> None:
        """Judge a rollout, and do what is due."""
        model = rollout.plan.model
        terms = await self._measuring.terms(rollout, self._control.roster, self._now_us())
        if terms is not None:
            await self._do(model, FreezeTerms(model, terms), "the stable version was measured")
        rollout = self._control.history.rollouts[model]
        now_us = self._now_us()
        cells, extras = self._evidence.of(model), await self._extras(rollout, now_us)
        dealt = draws(self._control.history, rollout, cells)
        verdict = await asyncio.to_thread(judge, rollout, cells, dealt, extras, now_us)
        self._evidence.remember(model, verdict.document["marks"])
        if self._advisor is not None:
            verdict = self._advisor.advised(rollout, verdict)
        self._verdicts[model] = verdict
        move = advance(rollout, verdict, now_us)
        if move is not None:
            revision = await self._do(model, Observe(model, verdict, now_us), move.why)
            if revision and move.verb is Verb.ROLLBACK and self._advisor is not None:
                self._advisor.after(rollout, revision)

    async def _extras(self, rollout: Rollout, now_us: int) -> Extras:
        """Gather what there is to know beside what the arms counted."""
        model, candidate, stable = rollout.plan.model, rollout.plan.candidate, rollout.stable
        if any(model in each.ready for each in self._control.roster.replicas.values()):
            self._heard_us[model] = now_us
        shadows = self._control.shadowed.readings(model, self._control.roster.replicas)
        drift = self._drift.says(model) if self._drift is not None else {}
        standing = self._labels.standing(model) if self._labels is not None else Standing()
        durations = None
        if durations_wanted(rollout):
            durations = await self._measuring.durations(model, candidate, self._control.roster)
        return Extras(
            heard_us=self._heard_us.setdefault(model, now_us),
            pairs=pairs(shadows.get(candidate), stable)
            | paired(standing.compared(candidate, stable, rollout.first)),
            drift={
                side: drift[version]
                for side, version in (("candidate", candidate), ("stable", stable))
                if version in drift
            },
            totals=totals(self._evidence.of(model), candidate),
            durations=durations,
            quality={each: standing.numbers().get(each, {}) for each in (candidate, stable)},
            marks=self._evidence.marks(model),
        )

    async def _do(self, model: str, intent: FreezeTerms | Observe | StallRollout, why: str) -> int:
        """Have it journalled, and return the revision; 0 if it was not."""
        try:
            receipt = await self._control.submit(intent, OURSELVES, (why or "due")[:WORDS_MAX])
        except (Lost, Stale) as error:
            log.info("event=rollout_waits model=%s reason=%r", model, str(error))
        except Refused as refused:
            await self._stall(model, str(refused))
        else:
            self._refused.pop(model, None)
            log.info("event=rollout model=%s revision=%d why=%r", model, receipt.revision, why)
            return receipt.revision
        return 0

    async def _stall(self, model: str, why: str) -> None:
        """Ask a person where a step cannot be taken again and again."""
        times, before = self._refused.get(model, (0, ""))
        self._refused[model] = (times + 1, why)
        if why != before:
            log.warning("event=rollout_refused model=%s reason=%r", model, why)
        if times + 1 == STALLED_MAX:
            await self._do(model, StallRollout(model, why, self._now_us()), why)
