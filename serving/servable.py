"""What is a version that answers, and what does it know of the calls that it has seen?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serving.aside import aside
from serving.calls import weight_bytes
from serving.config import Config
from serving.gpu.driver import opened
from serving.gpu.session import SLOTS
from serving.lane import Lane
from serving.layout import Layout, bind
from serving.ledger import Ledger
from serving.loader import Prepared
from serving.model import Batching, ModelSpec
from serving.tick import Tick
from serving.track import Tap
from serving.waiting import Waiting
from serving.wire import Call

LEDGER_ROWS_MAX = 256
"""Batches of up to this many rows are told apart in the counts."""
LAYOUTS_MAX = 4096
LAYOUT_BYTES_MAX = 16 * 1024
"""Calls up to this weight are remembered."""
LOOK_S = 0.005


class Servable:
    """A version that answers: its signature, its lanes, its ledger, and the calls that it has seen.

    Attributes
    ----------
    lane : Lane
    apart : Lane or None
        A second one on the same session, for requests whose batches are to be as small as they are few.
    device : DeviceSession or None
        That session, where it is on a device.
    memory : dict of str to int
        Bytes by device, such as cpu or cuda:0.
    """

    __slots__ = ("_leaving", "apart", "device", "lane", "layouts", "ledger", "load_s", "memory", "spec")

    def __init__(self, prepared: Prepared, lane: Lane, ledger: Ledger) -> None:
        self.spec: ModelSpec = prepared.spec
        self.lane = lane
        self.apart: Lane | None = None
        self._leaving: list[Lane] = []
        self.device = prepared.device
        self.ledger = ledger
        self.load_s = prepared.load_s
        self.memory = {"cpu": prepared.memory_bytes, **prepared.on_gpu}
        self.layouts: dict[Call, Layout] = {}

    def layout(self, call: Call) -> Layout:
        """Return how `call` fits this version; `Invalid` if it does not."""
        found = self.layouts.get(call)
        if found is None:
            found = bind(self.spec, call)
            if len(self.layouts) >= LAYOUTS_MAX:
                self.layouts.clear()
            if weight_bytes(call) <= LAYOUT_BYTES_MAX:  # Parameters are as large as a client likes.
                self.layouts[call] = found
        return found

    @property
    def lanes(self) -> list[Lane]:
        """All lanes that have, or may get, something to do."""
        return [self.lane, *([] if self.apart is None else [self.apart]), *self._leaving]

    @property
    def pending(self) -> int:
        """How many requests are not answered yet."""
        return sum(map(len, self.lanes))

    @property
    def queued(self) -> int:
        """How many of them wait."""
        return sum([lane.waiting.count for lane in self.lanes])

    def part(self) -> Lane:
        """Return the lane apart, made if there is none."""
        if self.apart is None:
            self.apart = self.lane.twin()
        return self.apart

    async def rejoin(self) -> None:
        """Have no lane apart any more; returns when all that was in it is answered."""
        lane, self.apart = self.apart, None
        if lane is not None:
            self._leaving.append(lane)
            await lane.close()
            self._leaving.remove(lane)

    def show(self, taps: Sequence[Tap]) -> None:
        """Show what is answered to these, and to nobody else."""
        for lane in self.lanes:
            lane.taps = [*taps]

    def batch(self, batching: Batching | None, requests_max: int) -> None:
        """Batch in another way from now on."""
        for lane in self.lanes:
            lane.waiting.configure(batching, self.spec.rows_max, requests_max)
            lane.pump()

    async def close(self) -> None:
        """Finish what is under way."""
        await asyncio.gather(self.lane.close(), self.rejoin())
        while self._leaving:
            await asyncio.sleep(LOOK_S)
        device, self.device = self.device, None
        if device is not None:
            await aside(device.close, nice=False)


def put_up(
    loop: asyncio.AbstractEventLoop,
    tick: Tick,
    settings: Config,
    prepared: Prepared,
    before: Servable | None,
) -> Servable:
    """Give what was prepared a lane; what a version has done stays counted when it takes its own place."""
    for driver in opened():
        driver.stand_apart()  # A session may end on the loop while another thread captures.
    spec = prepared.spec
    ledger = before.ledger if before is not None else Ledger(LEDGER_ROWS_MAX)
    device = prepared.device
    inline = prepared.inline(settings.engine.inline_us_max)
    lane = Lane(
        loop,
        tick,
        spec,
        device or prepared.session,
        ledger if settings.metrics.enabled else None,
        Waiting(spec.config.batching, spec.rows_max, settings.queue.requests_max),
        settings.engine.inline_us_max * 1000 if inline else 0,
        SLOTS if device is not None else spec.config.instances,
        device,
    )
    return Servable(prepared, lane, ledger)
