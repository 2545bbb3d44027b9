"""Which parameters a request, an input and an output may have, and what they mean.

Names that the protocol's extensions define are checked; those they reserve are refused; a request's
other parameters are kept for those who route, and an input's or output's others are ignored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from serving import expect
from serving.calls import Parameter
from serving.expect import JsonObject
from serving.wire import Window

RESERVED = frozenset({"headers"})
RESERVED_PREFIX = "triton_"
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
SHARED_MEMORY = "shared_memory_"
_WINDOW = frozenset({"shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"})
_KNOWN = frozenset({"timeout", "priority", "binary_data_output", *SEQUENCE})
_NONE: JsonObject = {}


class OfRequest(NamedTuple):
    """A request's parameters; the fields are those of `wire.Call`."""

    binary: bool = False
    timeout_us: int = 0
    priority: int = 0
    others: tuple[tuple[str, Parameter], ...] = ()


def of_request(holder: JsonObject) -> OfRequest:
    """Read the parameters of the request `holder`."""
    where = "$.parameters"
    given = _given(holder, "$")
    if not given:
        return OfRequest()
    for name in SEQUENCE:
        if given.get(name):
            raise expect.invalid("sequences are not supported; send requests without them", f"{where}.{name}")
    return OfRequest(
        "binary_data_output" in given and expect.boolean(given, "binary_data_output", where),
        expect.whole(given, "timeout", where) if "timeout" in given else 0,
        expect.whole(given, "priority", where) if "priority" in given else 0,
        tuple(sorted((name, value) for name, value in given.items() if name not in _KNOWN)),
    )


def of_input(holder: JsonObject, where: str) -> tuple[int | None, Window | None]:
    """Return the input's `binary_data_size`, or where its elements are; neither if they are in the JSON."""
    given = _given(holder, where)
    if not given:
        return None, None
    window = _window(given, where)
    if "binary_data_size" not in given:
        return None, window
    if window is not None:
        message = "expected no binary data beside shared memory"
        raise expect.invalid(message, f"{where}.parameters.binary_data_size")
    return expect.whole(given, "binary_data_size", f"{where}.parameters"), None


def of_output(holder: JsonObject, where: str, binary: bool) -> tuple[bool, int, Window | None]:
    """Return whether the output is wanted in binary (`binary` if not said), how many classes, and where."""
    given = _given(holder, where)
    if not given:
        return binary, 0, None
    window = _window(given, where)
    inside = f"{where}.parameters"
    if "binary_data" in given:
        binary = expect.boolean(given, "binary_data", inside)
    classes = expect.whole(given, "classification", inside) if "classification" in given else 0
    if "classification" in given and not classes:
        raise expect.invalid("expected 1 class or more, got 0", f"{inside}.classification")
    if classes and window is not None:
        raise expect.invalid("expected no classes in shared memory", f"{inside}.classification")
    return binary, classes, window


def _given(holder: JsonObject, where: str) -> dict[str, Any]:
    """Return the parameters of `holder` without those that are null, each of a type it may have."""
    value = holder.get("parameters")
    if value is None:
        return _NONE
    if type(value) is not dict:
        message = f"expected an object, got {expect.shown(value)}"
        raise expect.invalid(message, f"{where}.parameters")
    for name, parameter in value.items():
        if type(parameter) in (dict, list):
            message = f"expected a string, a number or a boolean, got {expect.shown(parameter)}"
            raise expect.invalid(message, _place(where, name))
        if name in RESERVED or name.startswith(RESERVED_PREFIX):
            raise expect.invalid("this name is reserved; choose another", _place(where, name))
    return {name: parameter for name, parameter in value.items() if parameter is not None}


def _place(where: str, name: str) -> str:
    return f"{where}.parameters.{name[: expect.SHOWN_CHARS_MAX]}"


def _window(given: dict[str, Any], where: str) -> Window | None:
    """Return the part of shared memory that the parameters of a tensor mean, if they mean any."""
    names = [name for name in given if name.startswith(SHARED_MEMORY)]
    if not names:
        return None
    inside = f"{where}.parameters"
    for name in names:
        if name not in _WINDOW:
            raise expect.invalid(f"unknown; known: {', '.join(sorted(_WINDOW))}", _place(where, name))
    region = expect.string(given, "shared_memory_region", inside)
    if "shared_memory_byte_size" not in given:
        raise expect.invalid("expected a size in bytes, got nothing", f"{inside}.shared_memory_byte_size")
    offset = expect.whole(given, "shared_memory_offset", inside) if "shared_memory_offset" in given else 0
    return Window(region, offset, expect.whole(given, "shared_memory_byte_size", inside))
