"""What came of the requests of many batches: how long each took, and what is odd about its answer?

All that is done here is done for all of them at once. A single batch can always be looked at; several only
if their rows are of one shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.evidence.answers import Rows, odd, tops
from serving.evidence.outputs import Output
from serving.evidence.page import Flags, Page

Pages = Page | None | list[Page | None]
"""One for all requests of a batch, or one for each."""
Part = tuple[Pages, Sequence[int], int, int, list[int] | None, list[int] | None, list[NDArray[Any]]]
"""What is kept of a batch, as a tuple because that takes 50 ns: its requests' pages, when each arrived and
when all were answered, the batch's rows (0 if it is none), each request's if they are not one each, each
caller's slot if it may have one, and the outputs."""
PAGES: Final = 0
ARRIVED: Final = 1
ANSWERED: Final = 2
ROWS: Final = 3
SIZES: Final = 4
SLOTS: Final = 5
OUTPUTS: Final = 6


class Unlike(Exception):
    """These batches have to be looked at one by one."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Requests that were answered, in their order.

    Attributes
    ----------
    took_ns : (requests,) int64
        From arrival to answer.
    odd : (requests,) bool or None
        Which of them were answered with a NaN or an infinity; None if none was.
    tops : (requests,) float or None
        Their top scores; None if there are no scores.
    """

    took_ns: NDArray[np.int64]
    odd: Flags | None
    tops: NDArray[Any] | None


def look(held: Sequence[Part], outputs: Sequence[Output], *, scores: bool) -> Looked:
    """Look at batches that were answered; `scores` says whether top scores are wanted.

    Raises
    ------
    Unlike
        If there are several and they do not go together.
    """
    took_ns = _took_ns(held)
    starts, rows = _rows(held, len(took_ns))
    wrong: Flags | None = None
    best = None
    for each in outputs:
        arrays = [part[OUTPUTS][each.at] for part in held]
        values, classes = _joined(each, arrays, rows, batched=held[0][ROWS] > 0)
        if not values.size:
            continue
        found = odd(values, starts)
        wrong = found if wrong is None or found is None else wrong | found
        if each.scores and scores:
            best = tops(values, classes, starts)
    return Looked(took_ns, wrong, best)


def _took_ns(held: Sequence[Part]) -> NDArray[np.int64]:
    arrivals = [part[ARRIVED] for part in held]
    arrived = np.array([*chain.from_iterable(arrivals)], np.int64)
    answered = np.array([part[ANSWERED] for part in held], np.int64)
    if len(held) != len(arrived):
        answered = np.repeat(answered, [*map(len, arrivals)])
    return answered - arrived


def _rows(held: Sequence[Part], requests: int) -> tuple[Rows | None, int]:
    """Return where each request's rows begin, if they are not one each, and how many rows there are."""
    sizes = [part[ROWS] for part in held]
    rows = sum(sizes)
    if not rows:
        return None, len(held)  # What is no batch is one request's.
    if 0 in sizes:
        raise Unlike
    if rows == requests:
        return None, rows
    own = chain.from_iterable(part[SIZES] or [1] * len(part[ARRIVED]) for part in held)
    ends = np.cumsum([*own])
    return np.concatenate(([0], ends[:-1])), rows


def _joined(
    output: Output, arrays: list[NDArray[Any]], rows: int, *, batched: bool
) -> tuple[NDArray[Any], int]:
    """Return the rows of an output as a matrix, and how many scores a choice has."""
    first, dtype = arrays[0], output.dtype
    classes = first.shape[-1] if first.ndim > batched else 1
    if len(arrays) == 1:
        values = first.reshape(rows, -1) if first.size else first.reshape(rows, 0)
    else:
        elements = (batched and output.elements) or _elements(arrays, batched=batched)
        parts: Any = arrays if dtype.kind == "f" else [each.tobytes() for each in arrays]
        joined = b"".join(parts)
        if len(joined) != rows * elements * dtype.itemsize:
            raise Unlike
        values = np.frombuffer(joined, dtype).reshape(rows, elements)
    return values if dtype.kind == "f" else values.astype(np.float32), classes


def _elements(arrays: list[NDArray[Any]], *, batched: bool) -> int:
    """Return the elements of a row of arrays that need not be alike."""
    shapes = {each.shape[batched:] for each in arrays}
    if len(shapes) > 1:
        raise Unlike
    return math.prod(shapes.pop())
