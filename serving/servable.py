"""What is a version that answers, and what does it know of the calls that it has seen?"""

from __future__ import annotations

import asyncio

from serving.calls import weight_bytes
from serving.config import Config
from serving.lane import Lane
from serving.layout import Layout, bind
from serving.ledger import Ledger
from serving.loader import Prepared
from serving.model import ModelSpec
from serving.tick import Tick
from serving.waiting import Waiting
from serving.wire import Call

LEDGER_ROWS_MAX = 256
"""Batches of up to this many rows are told apart in the counts."""
LAYOUTS_MAX = 4096
LAYOUT_BYTES_MAX = 16 * 1024
"""Calls up to this weight are remembered."""


class Servable:
    """A version that answers: its signature, its lane, its ledger, and the calls that it has seen."""

    __slots__ = ("lane", "layouts", "ledger", "load_s", "memory_bytes", "spec")

    def __init__(self, prepared: Prepared, lane: Lane, ledger: Ledger) -> None:
        self.spec: ModelSpec = prepared.spec
        self.lane = lane
        self.ledger = ledger
        self.load_s = prepared.load_s
        self.memory_bytes = prepared.memory_bytes
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


def put_up(
    loop: asyncio.AbstractEventLoop,
    tick: Tick,
    settings: Config,
    prepared: Prepared,
    before: Servable | None,
) -> Servable:
    """Give what was prepared a lane; what a version has done stays counted when it takes its own place."""
    spec = prepared.spec
    ledger = before.ledger if before is not None else Ledger(LEDGER_ROWS_MAX)
    inline = prepared.inline(settings.engine.inline_us_max)
    lane = Lane(
        loop,
        tick,
        spec,
        prepared.session,
        ledger if settings.metrics.enabled else None,
        Waiting(spec.config.batching, spec.rows_max, settings.queue.requests_max),
        settings.engine.inline_us_max * 1000 if inline else 0,
        spec.config.instances,
    )
    return Servable(prepared, lane, ledger)
