"""What a field of a JSON document has to be, and the sentence that says so where it is not.

Every function takes the object that holds the field, the field's name and the object's position,
such as ``$.inputs[0]``, so that a position is spelled out only when something is wrong.
"""

from __future__ import annotations

from typing import Any

import orjson

from serving.errors import Invalid

EXACT_FLOAT_MAX = 2**53
"""Beyond this a float may stand for several whole numbers, so it is not taken for one."""
WHOLE_MAX = 2**63 - 1
SHOWN_CHARS_MAX = 40

JsonObject = dict[str, Any]


def invalid(message: str, where: str) -> Invalid:
    """Return the error that says `message` about the place `where`."""
    return Invalid(f"{message} - at `{where}`")


def shown(value: Any) -> str:
    """Say what `value` is, in few characters."""
    match value:
        case list():
            return f"an array of {len(value)}"
        case dict():
            return "an object"
        case _:
            text = orjson.dumps(value).decode()
            return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."


def _wrong(expected: str, holder: JsonObject, name: str, where: str) -> Invalid:
    got = shown(holder[name]) if name in holder else "nothing"
    return invalid(f"expected {expected}, got {got}", f"{where}.{name}")


def string(holder: JsonObject, name: str, where: str) -> str:
    """Return the field, a string of at least one character."""
    value = holder.get(name)
    if type(value) is not str or not value:
        raise _wrong("a string of at least one character", holder, name, where)
    return value


def array(holder: JsonObject, name: str, where: str) -> list[Any]:
    """Return the field, an array."""
    value = holder.get(name)
    if type(value) is not list:
        raise _wrong("an array", holder, name, where)
    return value


def boolean(holder: JsonObject, name: str, where: str) -> bool:
    """Return the field, true or false; 1.0 and 0.0 will do, as some generated clients send them."""
    value = holder[name]
    if type(value) not in (bool, float) or value not in (0, 1):
        raise _wrong("true or false", holder, name, where)
    return bool(value)


def whole(holder: JsonObject, name: str, where: str) -> int:
    """Return the field, a whole number that is not negative; 1.0 is one."""
    value = is_whole(holder[name])
    if value is None:
        raise _wrong("a whole number, 0 or more", holder, name, where)
    return value


def is_whole(value: Any) -> int | None:
    """Return `value` as an int if it is a whole number from 0 to `WHOLE_MAX`."""
    match value:
        case bool():
            return None
        case float() if value.is_integer() and 0 <= value <= EXACT_FLOAT_MAX:
            return int(value)
        case int() if 0 <= value <= WHOLE_MAX:
            return value
    return None
