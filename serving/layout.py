"""How a call fits a model: validated once for each pair, and then only looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.classes import Classed, Classifying, classed
from serving.errors import Invalid
from serving.model import ModelSpec
from serving.slots import side_by_side
from serving.wire import Call, InferRequest, Payload, TensorIn, TensorSpec


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a run of such requests looks like.

    `key` is equal for requests that may share a run, and None for one that must run alone. `payloads`
    says where the payload of each input stands in a request, and `in_order` that they stand as the
    model has them. `rows` is this request's part of the batch; 0 where there is none. `wanted` are the
    indices of the model's outputs to answer with; `classed` has what is wanted in their place, and then
    the payloads count as out of order.
    """

    names: tuple[str, ...]
    payloads: tuple[int, ...]
    dtypes: tuple[np.dtype[Any], ...]
    shapes: tuple[tuple[int, ...], ...]
    rows: int
    key: tuple[Any, ...] | None
    in_order: bool
    wanted: tuple[int, ...]
    classed: Classed | None = None

    def fit(self, request: InferRequest) -> None:
        """Bind `request` to this layout, its payloads in the model's order."""
        request.layout = self
        if not self.in_order:
            request.payloads = [request.payloads[place] for place in self.payloads]
        if self.classed is not None:
            request.reply = Classifying(request.reply, self.classed)

    def feeds(self, requests: Sequence[InferRequest], rows: int) -> dict[str, NDArray[Any]]:
        """Return the arrays to run for `requests`, which share this layout's key and have `rows` in all.

        Their payloads are in the model's order.

        The payload of a request that runs alone is viewed, not copied.
        """
        feeds = {}
        for at, name in enumerate(self.names):
            dtype, shape = self.dtypes[at], self.shapes[at]
            if len(requests) == 1:
                payload = requests[0].payloads[at]
            else:
                shape = (rows, *shape[1:])
                payload = _join([request.payloads[at] for request in requests])
            if isinstance(payload, np.ndarray):
                feeds[name] = payload.reshape(shape)
            else:
                feeds[name] = np.ndarray(shape, dtype, payload)
        return feeds


def _join(payloads: list[Any]) -> Payload:
    if isinstance(payloads[0], np.ndarray):
        return np.concatenate([payload.reshape(-1) for payload in payloads])
    return side_by_side(payloads) or b"".join(payloads)


def bind(spec: ModelSpec, call: Call) -> Layout:
    """Fit `call` to the model, or say what does not fit.

    Raises
    ------
    Invalid
        Naming the tensor and what the model would take.
    """
    given = {tensor.name: index for index, tensor in enumerate(call.inputs)}
    for name in given:
        if spec.input(name) is None:
            known = ", ".join(each.name for each in spec.inputs) or "none"
            raise Invalid(f"model {spec.artifact.model!r} has no input {name!r}; its inputs: {known}")
    used = [each for each in spec.inputs if each.name in given]
    for each in spec.inputs:
        if each.name not in given and not each.optional:
            raise Invalid(f"input {each.name!r} is missing; the model takes {_signature(each)}")
    tensors = [call.inputs[given[each.name]] for each in used]
    for wanted, tensor in zip(used, tensors, strict=True):
        _check(wanted, tensor)
    rows, joinable = _rows(spec, tensors)
    shapes = tuple(tensor.shape for tensor in tensors)
    names = tuple(each.name for each in used)
    places = tuple(given[name] for name in names)
    of_classes = classed(spec, call)
    return Layout(
        names=names,
        payloads=places,
        in_order=places == tuple(range(len(places))) and of_classes is None,
        dtypes=tuple(each.datatype.dtype for each in used),
        shapes=shapes,
        rows=rows,
        key=(names, tuple(shape[1:] for shape in shapes)) if joinable else None,
        wanted=_wanted(spec, call),
        classed=of_classes,
    )


def _signature(spec: TensorSpec) -> str:
    return f"{spec.datatype.name} {list(spec.shape)}"


def _check(spec: TensorSpec, tensor: TensorIn) -> None:
    where = f"input {spec.name!r}"
    if tensor.datatype is not spec.datatype:
        raise Invalid(f"{where}: expected {spec.datatype.name}, got {tensor.datatype.name}")
    if not spec.admits(tensor.shape):
        raise Invalid(f"{where}: expected shape {list(spec.shape)}, got {list(tensor.shape)}; -1 is any size")


def _rows(spec: ModelSpec, tensors: list[TensorIn]) -> tuple[int, bool]:
    """Return the request's rows (0: not a batch), and whether it may share a run."""
    if spec.rows_max == 0 or not tensors:
        return 0, False
    sizes = {tensor.shape[0] for tensor in tensors}
    if len(sizes) > 1 and spec.config.rows_max is None:
        return 0, False  # Nobody calls it a batch: the model may well stretch one of them to the other.
    if len(sizes) > 1:
        listed = ", ".join(f"{tensor.name} {tensor.shape[0]}" for tensor in tensors)
        raise Invalid(f"the inputs differ in their first dimension, the batch: {listed}")
    rows = sizes.pop()
    if rows > spec.rows_max:
        if spec.config.rows_max is not None:
            raise Invalid(f"a batch of {rows} rows; this model's max_batch_size is {spec.rows_max}")
        return 0, False  # Nobody set that limit: it only says how far requests are joined.
    return rows, rows > 0


def _wanted(spec: ModelSpec, call: Call) -> tuple[int, ...]:
    if call.outputs is None:
        return tuple(range(len(spec.outputs)))
    position = {each.name: index for index, each in enumerate(spec.outputs)}
    for output in call.outputs:
        if output.name not in position:
            known = ", ".join(position)
            raise Invalid(
                f"model {spec.artifact.model!r} has no output {output.name!r}; its outputs: {known}"
            )
    return tuple(position[output.name] for output in call.outputs)
