"""What is counted of the requests that fell to one version in one epoch, as they end? On the event loop.

A request carries its page from the moment it is drawn (`InferRequest.page`, and `slot` if its caller's key
decided), so it is counted where it was dealt, whatever became of the table meanwhile. Requests that were not
drawn have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.table import WHOLE_BP
from serving.errors import Cancelled, Expired, Failed, Overloaded, TurnoutError, Unavailable
from serving.evidence.counts import (
    BITMAP_BYTES,
    FAILURE,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    LABELLED,
    LATENCIES,
    LOW_CONFIDENCE,
    NAN,
    REFUSED,
    REJECTED,
    REQUEST,
    TIMEOUT,
    WRONG,
    Counts,
    key,
)

CLASSES_MAX = 64
"""Classes that are told apart; the rest are one."""
REST = "(rest)"

Flags = NDArray[np.bool_]
Slots = NDArray[np.int64]

FIELDS = {
    NAN: "nan",
    LOW_CONFIDENCE: "unsure",
    **{metric: f"late{at}" for at, metric in enumerate(LATENCIES)},
}
"""Where an answer's events are counted."""


class Arm(NamedTuple):
    """What a page is of. `arm` is `SPLIT`, `BASELINE` or `WHOLE`."""

    model: str
    epoch: int
    version: str
    arm: str


SPLIT, BASELINE, WHOLE = "split", "baseline", "whole"
"""Drawn, or dealt by a key; the same, in the arm that is answered apart; and what nobody shares with anybody,
which is compared with nothing, but watched once a candidate is promoted."""


class Page:
    """Counters of one arm.

    Attributes
    ----------
    of : Arm
    changes : int
        Goes up whenever anything was counted.
    keyed : bool
        Whether requests may have come by their caller's key.
    """

    __slots__ = ("_callers", "_fn", "_fp", "_held", "_plain", "changes", "keyed", "of")

    def __init__(self, of: Arm) -> None:
        self.of = of
        self.changes = 0
        self.keyed = False
        self._plain: dict[str, int] = {}
        self._fp: dict[str, int] = {}
        self._fn: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._callers: dict[str, NDArray[np.uint8]] = {}

    def __repr__(self) -> str:
        model, epoch, version, arm = self.of
        return f"<Page {model}@{version} {arm} of {epoch}: {self._plain}>"

    def end(self, error: BaseException, slot: int = -1) -> None:
        """Count a request that got an error.

        Parameters
        ----------
        error : BaseException
            Its class says what it counts as; a client that left is nothing.
        slot : int
            The caller's, -1 for a request that was drawn at random.
        """
        match error:
            case Cancelled():
                return
            case Expired():
                self._note("timeout", (FAILURE, TIMEOUT), slot)
            case Unavailable() | Failed():
                self._note("failed", (FAILURE,), slot)
            case Overloaded():
                self._note("rejected", (REJECTED,), slot)
            case TurnoutError():
                self._note("refused", (REFUSED,), slot)
            case _:
                self._note("failed", (FAILURE,), slot)
        self._note("requests", (REQUEST,), slot)

    def label(self, predicted: str, actual: str, slot: int = -1) -> None:
        """Count a request whose label came: what was answered, and what it was."""
        self._note("labelled", (LABELLED,), slot)
        if predicted != actual:
            self._note("wrong", (WRONG,), slot)
            self._note_class(self._fp, FALSE_POSITIVE, predicted, slot)
            self._note_class(self._fn, FALSE_NEGATIVE, actual, slot)

    def answer(
        self, count: int, flags: Iterable[tuple[str, Flags | None]], slots: Slots | None = None
    ) -> None:
        """Count requests that were answered.

        Parameters
        ----------
        count : int
            How many.
        flags : (metric, (count,) bool) pairs
            Which of them had the event; None if it is known that none had.
        slots : (count,) int64, optional
            Their callers', -1 for what was drawn at random; None if all were.
        """
        self.changes += 1
        plain = self._plain
        plain["requests"] = plain.get("requests", 0) + count
        if slots is not None:
            self._hold(REQUEST, slots)
        for metric, flagged in flags:
            if metric is LOW_CONFIDENCE:
                plain["scored"] = plain.get("scored", 0) + count
            elif metric is LATENCIES[0]:
                plain["timed"] = plain.get("timed", 0) + count
            if flagged is not None:
                name = FIELDS[metric]
                plain[name] = plain.get(name, 0) + int(np.count_nonzero(flagged))
                if slots is not None:
                    self._hold(metric, slots[flagged])

    def counts(self) -> Counts:
        """Return what was counted until now. Any thread may call it."""
        plain = self._plain.copy()
        late = tuple(plain.pop(FIELDS[metric], 0) for metric in LATENCIES)
        callers = {name: bitmap.tobytes() for name, bitmap in self._callers.copy().items()}
        return Counts(
            **plain,
            late=late,  # type: ignore[arg-type]
            fp=self._fp.copy(),
            fn=self._fn.copy(),
            held=self._held.copy(),
            callers=callers,
        )

    def _note(self, name: str, events: tuple[str, ...], slot: int) -> None:
        self.changes += 1
        self._plain[name] = self._plain.get(name, 0) + 1
        if slot >= 0:
            for event in events:
                self._hold_one(event, slot)

    def _note_class(self, counted: dict[str, int], metric: str, of: str, slot: int) -> None:
        name = of if of in counted or len(counted) < CLASSES_MAX else REST
        counted[name] = counted.get(name, 0) + 1
        if slot >= 0:
            self._hold_one(key(metric, name), slot)

    def _hold_one(self, event: str, slot: int) -> None:
        self._held[event] = self._held.get(event, 0) + 1
        self._bitmap(event)[slot >> 3] |= 1 << (slot & 7)

    def _hold(self, event: str, slots: Slots) -> None:
        held = slots[slots >= 0]
        if held.size:
            self._held[event] = self._held.get(event, 0) + held.size
            callers = np.zeros(WHOLE_BP, np.bool_)  # 5 µs for 2,048 of them, where bit by bit it is 20.
            callers[held] = True
            bitmap = self._bitmap(event)
            bitmap |= np.packbits(callers, bitorder="little")

    def _bitmap(self, event: str) -> NDArray[np.uint8]:
        bitmap = self._callers.get(event)
        if bitmap is None:
            bitmap = self._callers[event] = np.zeros(BITMAP_BYTES, np.uint8)
        return bitmap
