"""When are a version's answers looked at, and on whose page is each of them counted?

Of a batch that was answered is kept what is needed, and many are looked at together a moment later, since
most of what that costs is to begin. Requests themselves are not held: that costs more than to count them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from serving.evidence.counts import LATENCIES, LOW_CONFIDENCE, NAN
from serving.evidence.looked import ARRIVED, PAGES, SLOTS, Looked, Pages, Part, Unlike, look
from serving.evidence.outputs import outputs
from serving.evidence.page import Flags, Page
from serving.evidence.spread import Spread
from serving.evidence.terms import Terms
from serving.model import ModelSpec
from serving.track import Batch, Tap

HELD_MAX = 2048
"""Batches that are held at most, and requests that they are to have. A request in a batch of 8 costs 0.25 µs
in all then, with 512 it would be 0.4; and to look at so many keeps the loop for 0.1 to 0.2 ms."""
HELD_BYTES_MAX = 1 << 20
"""What was given for them at most, unless for a single one."""

log = logging.getLogger("turnout.evidence")


class Intake:
    """One version's answers.

    Parameters
    ----------
    spec : ModelSpec
    terms : Terms
    spread : Spread
        Where top scores are counted as long as no confidence is frozen.
    """

    def __init__(self, spec: ModelSpec, terms: Terms, spread: Spread) -> None:
        self._name = str(spec)
        self._late_ns = terms.late_ns
        self._confidence = terms.confidence
        self._outputs = outputs(spec, terms.output)
        self._scores = any(each.scores for each in self._outputs)
        self._spread = spread if self._scores and self._confidence is None else None
        self._held: list[Part] = []
        self._held_max = _held_max(spec)
        self._broke = False
        self.tap: Tap = self._tap()
        """What is to be called with each batch, on the event loop."""

    def __repr__(self) -> str:
        return f"<Intake of {self._name}: {len(self._outputs)} outputs, {self._held_max} at once>"

    def _tap(self) -> Tap:
        # A closure, as in `serving.drift.intake`.
        held, most, flush = self._held, self._held_max or HELD_MAX, self.flush
        append, all_count, free = held.append, self._spread is not None, not self._held_max
        held_bytes = 0

        def tap(batch: Batch) -> None:
            nonlocal most, held_bytes
            if batch.answered is not None:
                batch = _of_answered(batch)
            requests, rows = batch.requests, batch.rows
            count = len(requests)
            pages: Pages = requests[0].page if count else None
            if count > 1:
                each = [request.page for request in requests]
                if each.count(each[0]) != count:
                    pages = each
            if pages is None and not (all_count and count):
                return
            sizes = None if rows == count or not rows else [request.layout.rows for request in requests]
            keyed = pages is not None and (pages.__class__ is list or pages.keyed)  # type: ignore[union-attr]
            slots = [request.slot for request in requests] if keyed else None
            outputs = batch.outputs or []
            append((pages, batch.arrivals, batch.answered_ns, rows, sizes, slots, outputs))
            if free:
                held_bytes += sum([output.nbytes for output in outputs])
            if len(held) >= most or held_bytes >= HELD_BYTES_MAX:
                held_bytes = 0
                most = flush()

        return tap

    def flush(self) -> int:
        """Count what is held, and return how many batches like these are to be held at once."""
        held = self._held[:]
        self._held.clear()
        most = self._held_max or HELD_MAX
        if not held:
            return most
        try:
            requests = self._count(held)
        except Exception:  # They were answered all the same, and the next ones may be counted.
            if not self._broke:
                self._broke = True
                log.exception("version=%s event=evidence_broke", self._name)
            return most
        return min(max(HELD_MAX * len(held) // requests, 1), most)

    def _count(self, held: Sequence[Part]) -> int:
        """Count batches; return how many requests they had."""
        try:
            looked = look(held, self._outputs, scores=self._scores)
        except Unlike:
            return sum([self._count([part]) for part in held])
        if self._spread is not None and looked.tops is not None:
            self._spread.add(looked.tops)
        flags, requests = self._flags(looked), len(looked.took_ns)
        pages = [part[PAGES] for part in held]
        if pages.count(pages[0]) == len(pages) and not isinstance(pages[0], list):
            if pages[0] is not None:
                pages[0].answer(requests, flags, _slots(held) if pages[0].keyed else None)
            return requests
        slots = _slots(held)
        for page, places in _by_page(held).items():
            chosen = [(metric, None if each is None else each[places]) for metric, each in flags]
            page.answer(len(places), chosen, slots[places] if page.keyed else None)
        return requests

    def _flags(self, looked: Looked) -> list[tuple[str, Flags | None]]:
        """Return which requests had which event."""
        flags: list[tuple[str, Flags | None]] = [(NAN, looked.odd)]
        if self._late_ns is not None:
            for metric, late_ns in zip(LATENCIES, self._late_ns, strict=True):
                flags.append((metric, looked.took_ns > late_ns))
        if self._confidence is not None and looked.tops is not None:
            flags.append((LOW_CONFIDENCE, looked.tops < self._confidence))
        return flags


def _slots(held: Sequence[Part]) -> NDArray[np.int64]:
    """Return the slots of all requests; -1 where there is none."""
    slots = chain.from_iterable([part[SLOTS] or [-1] * len(part[ARRIVED]) for part in held])
    return np.array([*slots], np.int64)


def _by_page(held: Sequence[Part]) -> dict[Page, list[int]]:
    """Return the places of the requests of each page."""
    places: dict[Page, list[int]] = {}
    at = 0
    for part in held:
        pages, count = part[PAGES], len(part[ARRIVED])
        if isinstance(pages, list):
            for place, page in enumerate(pages, at):
                if page is not None:
                    places.setdefault(page, []).append(place)
        elif pages is not None:
            places.setdefault(pages, []).extend(range(at, at + count))
        at += count
    return places


def _of_answered(batch: Batch) -> Batch:
    """Return what of a batch got an answer: clients may leave while it runs, and deadlines pass."""
    there = set(map(id, batch.answered or ()))
    rows: list[int] = []
    at = 0
    for request in batch.requests:
        stop = at + request.layout.rows
        if id(request) in there:
            rows += range(at, stop)
        at = stop
    outputs = [each[rows] for each in batch.outputs or ()] if batch.rows else batch.outputs
    made = Batch(batch.answered or [], len(rows) if batch.rows else 0, 0, outputs=outputs)
    made.arrivals, made.answered_ns = batch.arrivals, batch.answered_ns
    return made


def _held_max(spec: ModelSpec) -> int:
    """Return how many batches are held at once; 0 if nobody knows how large their outputs are."""
    rows = [each.shape[1:] if spec.rows_max else each.shape for each in spec.outputs]
    if any(-1 in row for row in rows) or any(each.datatype.dtype.kind == "O" for each in spec.outputs):
        return 0
    row_bytes = sum(
        math.prod(row) * each.datatype.dtype.itemsize for row, each in zip(rows, spec.outputs, strict=True)
    )
    return min(max(HELD_BYTES_MAX // max(row_bytes * max(spec.rows_max, 1), 1), 1), HELD_MAX)
