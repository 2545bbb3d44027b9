"""What does a version make of requests that another one answered? A sample of them is copied to its process.

The process (`serving.shadow.process`) is what makes a shadow harmless: here, on the event loop, a batch
is only copied into a ring of fixed size, or dropped and counted. Rows are drawn at random and
independently of each other, so those that are compared are a fair sample of all, as long as what is
dropped does not depend on what is in them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.table import WHOLE_BP
from serving.config import Shadow as Settings
from serving.drift.outlet import Outlets
from serving.errors import Failed
from serving.labels.echo import Echo
from serving.model import ModelSpec
from serving.shadow import sample
from serving.shadow.board import ARMS_MAX, Board
from serving.shadow.comparison import Drop, Pair, ShadowReading, side_of, total
from serving.shadow.draw import Draw
from serving.shadow.process import ShadowProcess
from serving.shadow.ring import Ring
from serving.shadow.sample import HEAD, PLANS_MAX, Misfit, Plan
from serving.track import Batch

PUBLISH_S = 0.002
"""How long what was copied may wait until the process hears of it, together with what comes meanwhile."""
KNOWN_MAX = 256
"""Versions of which it is known what their outputs are called."""
OUTPUTS_MAX = 16
"""Outputs that are compared: the first of the model's."""

SHAPE = attrgetter("shape")

log = logging.getLogger("turnout.shadow")


class Arm:
    """One version that answers, and what was taken of its batches."""

    __slots__ = ("dropped", "index", "names", "plans", "said")

    def __init__(self, index: int, names: tuple[str, ...]) -> None:
        self.index = index
        self.names = names
        self.plans: dict[tuple[Any, ...], Plan | None] = {}
        self.dropped: dict[Drop, int] = {}
        self.said = False

    def drop(self, reason: Drop, rows: int) -> None:
        """Count rows that were drawn and will not be compared."""
        self.dropped[reason] = self.dropped.get(reason, 0) + rows


class Shadow:
    """One version as the shadow of those that answer.

    Parameters
    ----------
    spec : ModelSpec
        The shadow's version.
    share_bp : int
        How many of 10,000 rows it gets. Each is drawn for itself.
    settings : serving.config.Shadow
    noise : bool
        Whether it is the A/A arm: then it gets what this very version answered, else what any other did.
    random : numpy.random.Generator
        Where the rows are drawn from.
    outlets : Outlets, optional
        Where its process is to write what it took and gave, for those who count that.
    echo : Echo, optional
        Where it is to write what it decided, for those who have labels.
    """

    def __init__(
        self,
        spec: ModelSpec,
        share_bp: int,
        settings: Settings,
        *,
        noise: bool = False,
        random: np.random.Generator | None = None,
        outlets: Outlets | None = None,
        echo: Echo | None = None,
    ) -> None:
        self.spec = spec
        self.version = str(spec.artifact.version)
        self.noise = noise
        self.outlets = outlets
        self.echo = echo
        self._draw = None
        if share_bp < WHOLE_BP:
            self._draw = Draw(share_bp, random if random is not None else np.random.default_rng())
        self._arms: dict[str, Arm] = {}
        self._known: dict[str, tuple[str, ...]] = {}
        self._ring = Ring(settings.queue_bytes)
        self._names = tuple(each.name for each in spec.outputs[:OUTPUTS_MAX])
        sides = [side_of(each, rows=spec.rows_max > 0) for each in spec.outputs[:OUTPUTS_MAX]]
        self._board = Board(sides)
        self._process = ShadowProcess(spec, sides, settings, self._ring, self._board, outlets, echo)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._publishing: asyncio.TimerHandle | None = None
        self._broke = False

    def __repr__(self) -> str:
        return f"<Shadow {self.spec}: {self._ring!r} {self._process!r}>"

    @property
    def ready(self) -> bool:
        """Whether its process has the version loaded."""
        return self._process.ready

    async def start(self) -> None:
        """Start its process, and do not wait for it: until it is ready, batches wait in the ring."""
        self._loop = asyncio.get_running_loop()
        self._process.start()

    async def close(self) -> None:
        """End the process; returns when it is gone. What was compared can still be read."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if self._publishing is not None:
            self._publishing.cancel()
        await loop.run_in_executor(None, self._process.stop)
        self._ring.close()
        self._board.close()

    def introduce(self, primary: ModelSpec) -> None:
        """Learn what a version's outputs are called: they may stand in another order than the shadow's."""
        version = str(primary.artifact.version)
        names = self._known[version] = tuple(each.name for each in primary.outputs)
        arm = self._arms.get(version)
        if arm is not None and arm.names != names:
            arm.names = names
            arm.plans.clear()
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def tap(self, batch: Batch, primary_version: str) -> None:
        """Copy what is to be compared of a batch that was answered. On the loop; never raises or waits."""
        try:
            arm = self._arms.get(primary_version) or self._arm(primary_version)
            if arm is not None and self._loop is not None:
                self._take(arm, batch)
        except Exception:
            if not self._broke:
                self._broke = True
                log.exception("version=%s event=shadow_broke", self.spec)
            if (arm := self._arms.get(primary_version)) is not None:
                arm.drop(Drop.BROKEN, batch.rows or 1)

    def reading(self) -> ShadowReading:
        """Return what was compared until now. Any thread may call it."""
        pairs = {}
        for primary, arm in list(self._arms.items()):
            lost = self._process.lost[arm.index]
            dropped = total(arm.dropped.copy(), lost.copy())
            pairs[primary] = Pair.of(self._board.read(arm.index), self._names, dropped)
        restarts = {str(death): count for death, count in self._process.restarts.items()}
        return ShadowReading(pairs, restarts, int(self.ready), self._process.given_up)

    def _arm(self, primary: str) -> Arm | None:
        """Return a new arm for a version, if there may be one."""
        if (primary == self.version) != self.noise or len(self._arms) >= ARMS_MAX:
            return None
        names = self._known.get(primary) or tuple(each.name for each in self.spec.outputs)
        arm = self._arms[primary] = Arm(len(self._arms), names)
        return arm

    def _take(self, arm: Arm, batch: Batch) -> None:
        # Rows that strangers sent can only be told apart by a model that batches.
        rows = count = batch.rows if self.spec.rows_max else 0
        chosen = None
        if self._draw is not None:
            chosen = self._draw.rows(rows or 1)
            if chosen is None:
                return
            if len(chosen) == (rows or 1):
                chosen = None
            else:
                count = len(chosen)
        feeds, made = batch.feeds, batch.outputs
        assert feeds is not None
        assert made is not None
        if self._process.given_up:
            arm.drop(Drop.GIVEN_UP, count or 1)
            return
        if batch.rows and not rows and len(batch.requests) > 1:
            arm.drop(Drop.MISFIT, batch.rows)
            return
        form = (rows, *feeds, *map(SHAPE, feeds.values()), *map(SHAPE, made))
        try:
            plan = arm.plans[form]
        except KeyError:
            plan = self._plan(arm, form, feeds, made)
        if plan is None:
            arm.drop(Drop.MISFIT, count or 1)
        else:
            arrays = [*feeds.values(), *[made[of] for of in plan.outputs]]
            keys = self.echo.keys(batch, rows) if self.echo is not None else None
            size = 0 if chosen is not None else plan.size
            if keys is not None:
                arrays.append(keys)
                size += keys.nbytes if size else 0
            run_ns = batch.ended_ns - batch.started_ns
            head = HEAD.pack(batch.ended_ns, run_ns, count, arm.index, chosen is None, len(plan.text))
            self._put(arm, plan, head, arrays, count or 1, chosen, size)

    def _put(
        self,
        arm: Arm,
        plan: Plan,
        head: bytes,
        arrays: list[NDArray[Any]],
        rows: int,
        chosen: NDArray[np.int64] | None,
        size: int,
    ) -> None:
        # Where all bytes are known before, a full ring costs no copy.
        if not size or self._ring.room(size):
            try:
                parts = sample.write(plan, head, arrays, chosen)
            except Failed:  # A string that is not Unicode: the client did not get it either.
                arm.drop(Drop.MISFIT, rows)
                return
            if size or self._ring.room(size := sum(map(len, parts))):
                self._ring.put(parts, size)
                if self._publishing is None and self._loop is not None:
                    self._publishing = self._loop.call_later(PUBLISH_S, self._publish)
                return
        arm.drop(Drop.TOO_LARGE if size > self._ring.entry_bytes_max else Drop.FULL, rows)

    def _publish(self) -> None:
        self._publishing = None
        self._process.tell(self._ring.tail)

    def _plan(
        self, arm: Arm, form: tuple[Any, ...], feeds: Mapping[str, NDArray[Any]], made: list[NDArray[Any]]
    ) -> Plan | None:
        if len(arm.plans) >= PLANS_MAX:
            arm.plans.clear()
        outputs = self.spec.outputs[:OUTPUTS_MAX]
        names = arm.names[: len(made)]
        try:
            plan = sample.plan(self.spec.inputs, outputs, feeds, made, names, form[0])
        except Misfit as misfit:
            plan = None
            if not arm.said:
                arm.said = True
                log.warning("version=%s event=shadow_misfit reason=%r", self.spec, str(misfit))
        arm.plans[form] = plan
        return plan
