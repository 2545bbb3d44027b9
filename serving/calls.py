"""Which calls are the same: equal ones are one object, so that what follows from it is found by identity."""

from __future__ import annotations

from typing import Any

from serving.memo import Memo
from serving.wire import Call, TensorIn, TensorOut

_CALLS: Memo[tuple[Any, ...], Call] = Memo(entries_max=4096, entry_bytes_max=8192)

Parameter = str | int | float | bool


def intern(
    inputs: tuple[TensorIn, ...],
    outputs: tuple[TensorOut, ...] | None = None,
    *,
    binary: bool = False,
    timeout_us: int = 0,
    priority: int = 0,
    parameters: tuple[tuple[str, Parameter], ...] = (),
) -> Call:
    """Return the call of these parts; the same object as last time, unless it was long ago.

    A call with very long names or parameters is not kept, and is a new object each time.
    """
    key = (
        # Hashing these flat tuples costs a tenth of hashing the dataclasses.
        tuple([(each.name, each.datatype.name, each.shape, each.window) for each in inputs]),
        None
        if outputs is None
        else tuple([(each.name, each.binary, each.classes, each.window) for each in outputs]),
        binary,
        timeout_us,
        priority,
        # 1, 1.0 and true are equal keys but not equal parameters; neither are 0.0 and -0.0.
        tuple([(name, type(value), repr(value)) for name, value in parameters]),
    )
    call = _CALLS.get(key) or _CALLS.recall(key)
    if call is None:
        call = Call(inputs, outputs, binary, timeout_us, priority, parameters)
        _CALLS.keep(key, call, weight_bytes(call))
    return call


def weight_bytes(call: Call) -> int:
    """Estimate what `call` takes, for those who remember something by it.

    A client chooses its names and parameters, so they count in full.
    """
    words = sum(len(name) + len(str(value)) for name, value in call.parameters)
    names = sum(len(each.name) + 16 * len(each.shape) for each in call.inputs)
    asked = sum(len(each.name) for each in call.outputs or ())
    windows = sum(128 + len(each.region) for each in call.windows()) if call.shared else 0
    parts = len(call.inputs) + len(call.outputs or ()) + len(call.parameters)
    return 256 + 64 * parts + 2 * words + names + asked + windows
