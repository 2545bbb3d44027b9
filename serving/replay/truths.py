"""What is known by now to be right of what a model was asked lately? The labels that replicas are told of."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from serving.labels.answers import row_key, wire_id
from serving.labels.label import ONLY_ROW

LABELS_MAX = 50_000
"""Of all models; the oldest go. Those of requests that are kept no more are of no use."""

PORTION, PAUSE_S = 100, 0.0005
"""Labels that are looked at in a row, and how long is rested then."""

Told = Sequence[Sequence[Any]]
"""Labels as `serving.labels.label.told` writes them: id, row, truth, and when it became known."""


class Truths:
    """Labels as they came: what is to be done with them is done where somebody replays."""

    def __init__(self) -> None:
        self._told: deque[tuple[str, Told]] = deque()
        self._count = 0

    def __repr__(self) -> str:
        return f"<Truths: {self._count} labels>"

    def note(self, model: str, told: Told) -> None:
        """Take in labels."""
        self._told.append((model, told))
        self._count += len(told)
        while self._count > LABELS_MAX and len(self._told) > 1:
            _, oldest = self._told.popleft()
            self._count -= len(oldest)

    def of(self, model: str) -> list[Told]:
        """Return what was told of a model, oldest first."""
        return [told for of, told in self._told if of == model]


def table(told: Sequence[Told]) -> dict[int, str]:
    """Return classes by the keys of the answers that they are of; the latest counts, and scores are none."""
    known: dict[int, str] = {}
    for at, each in enumerate(chain(*told), 1):
        if at % PORTION == 0:
            time.sleep(PAUSE_S)  # The event loop may be waiting for the interpreter.
        match each:
            case [str(id_), int(row), (str() | int()) as truth, *_]:
                key = hash(wire_id(id_))
                if row != ONLY_ROW:
                    known[_of_row(key, row)] = str(truth)
                if row <= 0:  # The first row of a request may be its only one.
                    known[key] = str(truth)
    return known


def _of_row(key: int, row: int) -> int:
    return int(row_key(np.array([key]), np.array([row]))[0])
