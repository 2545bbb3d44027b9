"""Which classes does an output see in its input? The highest values, as Triton's extension writes them.

https://github.com/triton-inference-server/server, docs/protocol/extension_classification.md: an output that
is asked for with the parameter `classification` is answered as BYTES, each ``value:index`` or, where the
output has labels, ``value:index:label``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import Invalid, TooLarge, TurnoutError
from serving.model import ModelSpec
from serving.wire import DATATYPES, Call, InferRequest, Reply, Results, TensorSpec

STRINGS_MAX = 65536
"""Classes of one output of one answer: writing them takes the loop 30 to 40 ms."""
ELEMENTS_MAX = 1 << 22
"""Elements of one output of one answer among which classes are looked for, at 18 ns each."""
SORTED_MAX = 1024
"""Rows up to this size are sorted whole, which is quicker than to look for the highest first."""


@dataclass(frozen=True, slots=True, eq=False)
class Classed:
    """What the answers to a call have instead of a model's outputs.

    `most` says how many classes of each output are asked for; 0 asks for the output as it is. `labels` are
    each output's, the name of class i at i; perhaps none.
    """

    outputs: tuple[TensorSpec, ...]
    most: tuple[int, ...]
    labels: tuple[Sequence[str], ...]

    def results(self, results: Results, start: int, stop: int) -> Results:
        """Return what answers the request of rows `start` to `stop`.

        Raises
        ------
        TooLarge
            If that is more than `STRINGS_MAX` classes.
        """
        arrays = [
            self._of(index, results.part(index, start, stop), batched=results.rows > 0)
            for index in range(len(self.outputs))
        ]
        rows = stop - start if results.rows else 0
        return Results(results.model, results.version, self.outputs, arrays, rows)

    def _of(self, index: int, array: NDArray[Any], *, batched: bool) -> NDArray[Any]:
        if not self.most[index]:
            return array
        rows = array.reshape(len(array) if batched else 1, math.prod(array.shape[batched:]))
        name, count = self.outputs[index].name, min(self.most[index], rows.shape[1])
        if rows.size > ELEMENTS_MAX:
            asked = f"classes of {name!r}, which has {rows.size} elements; the limit is {ELEMENTS_MAX}"
            raise TooLarge(f"{asked}: ask for fewer rows, or for the output itself")
        if len(rows) * count > STRINGS_MAX:
            asked = f"{len(rows) * count} classes of {name!r}; the limit is {STRINGS_MAX}"
            raise TooLarge(f"{asked}: ask for fewer, or for fewer rows")
        classes = np.empty(len(rows) * count, np.object_)
        classes[:] = written(rows, count, self.labels[index])
        return classes.reshape((len(rows), count) if batched else (count,))


def classed(spec: ModelSpec, call: Call) -> Classed | None:
    """Return what answers to `call` have instead of the model's outputs; None if these are wanted.

    Raises
    ------
    Invalid
        If classes are asked for of an output that is no number.
    """
    most = {each.name: each.classes for each in call.outputs or () if each.classes}
    if not most:
        return None
    for each in spec.outputs:
        if each.name in most and each.datatype.name in ("BYTES", "BOOL"):
            raise Invalid(f"output {each.name!r} is {each.datatype.name}; classification takes numbers")
    return Classed(
        tuple(
            replace(each, datatype=DATATYPES["BYTES"]) if each.name in most else each for each in spec.outputs
        ),
        tuple(most.get(each.name, 0) for each in spec.outputs),
        tuple(spec.labels.get(each.name, ()) for each in spec.outputs),
    )


class Classifying:
    """Stands before a request's reply, and hands on classes in the place of outputs."""

    __slots__ = ("_classed", "_reply")

    def __init__(self, reply: Reply, classed: Classed) -> None:
        self._reply = reply
        self._classed = classed

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send the classes in rows `start` to `stop` of `results`."""
        self._reply.answer(request, self._classed.results(results, start, stop), 0, stop - start)

    def fail(self, request: InferRequest, error: TurnoutError) -> None:
        """Send the error."""
        self._reply.fail(request, error)


def written(rows: NDArray[Any], count: int, labels: Sequence[str]) -> list[str]:
    """Return the `count` highest of each row (shape [m, n]), best first and row by row, as they are sent."""
    order = top(rows, count)
    best = np.take_along_axis(rows, order, axis=1).ravel()
    indices = order.ravel().tolist()
    if rows.dtype.kind in "iu":
        texts = list(map("%d:%d".__mod__, zip(best.tolist(), indices, strict=True)))
    else:  # Six decimals, as std::to_string has them.
        texts = list(map("%f:%d".__mod__, zip(best.astype(np.float64).tolist(), indices, strict=True)))
    named = len(labels)
    return [
        f"{text}:{labels[index]}" if index < named and labels[index] else text
        for text, index in zip(texts, indices, strict=True)
    ]


def top(rows: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Return where the `count` highest of each row are, best first; of equal ones the first comes first.

    Rows are of shape [m, n], of any number type, and NaN is lower than everything in them.
    """
    if rows.dtype.kind not in "iu":
        rows = rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows
        missing = np.isnan(rows)
        if missing.any():
            rows = np.where(missing, -np.inf, rows)
    if rows.shape[1] <= SORTED_MAX or not count:
        return _descending(rows)[:, :count]
    return np.stack([_top_of_many(row, count) for row in rows])


def _top_of_many(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    found = np.concatenate((above, np.flatnonzero(values == least)[: count - len(above)]))
    order: NDArray[np.intp] = found[_descending(values[found])]
    return order


def _descending(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return the order of the last dimension, highest first, equal ones in theirs."""
    # Turned round, because a stable sort would else put the last of equal values first.
    last = values.shape[-1] - 1
    order: NDArray[np.intp] = last - np.argsort(values[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    return order
