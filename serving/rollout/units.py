"""How are durations, shares and rates written in a rollout's document, and read without loss?

Decimal arithmetic, so that what is written of a value is read as that very value again.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from router.names import shown, weight_bp
from router.plan import Analysis, Pause, Promote, SetMirror, SetWeight, Step
from router.table import percent

_NUMBER = r"\d{1,18}(?:\.\d{1,30})?"
_DURATION = re.compile(rf"(?:(\d{{1,9}})d)?(?:(\d{{1,9}})h)?(?:(\d{{1,9}})m)?(?:({_NUMBER})s)?", re.ASCII)
_MILLISECONDS = re.compile(rf"({_NUMBER})ms", re.ASCII)
_PERCENT = re.compile(rf"({_NUMBER})%", re.ASCII)
_LONG, _UNITS = (("d", 86400), ("h", 3600), ("m", 60)), (86400, 3600, 60, 1)


def seconds(value: Any) -> float:
    """Read ``10m``, ``30s``, ``1h30m``, ``250ms``, or a number of seconds as Argo has it.

    Raises
    ------
    ValueError
        If it is no duration.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    if isinstance(value, str):
        if match := _MILLISECONDS.fullmatch(value):
            return float(Decimal(match[1]) / 1000)
        match = _DURATION.fullmatch(value)
        if match and value:
            parts = zip(match.groups(), _UNITS, strict=True)
            return float(sum(Decimal(part) * unit for part, unit in parts if part))
    raise ValueError(f"expected a duration such as 10m, 30s or 1h30m, got {said(value)}")


def written_s(s: float) -> str:
    """Write seconds so that `seconds` reads them."""
    if not s.is_integer():
        return f"{_plain(Decimal(repr(s)))}s"
    left, words = int(s), []
    for letter, unit in _LONG:
        count, left = divmod(left, unit)
        words += [f"{count}{letter}"] if count else []
    return "".join(words + ([f"{left}s"] if left or not words else []))


def share_bp(value: Any) -> int:
    """Read a share in percent, such as 5, 2.5, ``5`` or ``0.25%``, as basis points.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        text = str(value)[:40]
        try:
            return weight_bp(f"{text.removesuffix('.0').removesuffix('%')}%")
        except ValueError:
            pass
    raise ValueError(f"expected a share of the traffic such as 5, 5% or 0.25%, got {said(value)}")


def rate(value: Any) -> float:
    """Read a rate with its percent sign, such as ``0.1%``, as a number between 0 and 1.

    Raises
    ------
    ValueError
        If it is none; without the sign a number could be either.
    """
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a rate with a percent sign such as 0.1%, got {said(value)}")
    return float(Decimal(match[1]) / 100)


def written_rate(value: float) -> str:
    """Write a rate so that `rate` reads it."""
    return f"{_plain(Decimal(repr(value)) * 100)}%"


def probability(value: Any) -> float:
    """Read a probability such as 0.01 or ``1%``."""
    return rate(value) if isinstance(value, str) else number(value)


def number(value: Any) -> float:
    """Read a number; `ValueError` if it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise ValueError(f"expected a number, got {said(value)}")


def percentage(value: Any) -> float:
    """Read a rate as Flagger has it: ``99.9%``, or the number of the percentage, as one between 0 and 1."""
    return rate(value) if isinstance(value, str) else float(Decimal(repr(number(value))) / 100)


def milliseconds(value: Any) -> float:
    """Read a duration as Flagger has it: ``25ms``, or the number of milliseconds, as seconds."""
    return seconds(value) if isinstance(value, str) else float(Decimal(repr(number(value))) / 1000)


def said(value: Any) -> str:
    """Quote what somebody wrote for a message, but never much of it."""
    match value:
        case dict():
            return "fields"
        case list():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() if abs(value) >= 10**40:
            return "a very large number"
        case _:
            return shown(value) if isinstance(value, str) else str(value)


def _plain(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def step_words(step: Step) -> str:
    """Write a step for people."""
    match step:
        case SetWeight(bp):
            return f"setWeight {percent(bp)}"
        case SetMirror(bp):
            return f"setMirror {percent(bp)}"
        case Pause(s):
            return "pause until promoted or resumed" if s is None else f"pause {written_s(s)}"
        case Analysis(s_max, metrics):
            return f"analysis within {written_s(s_max)}" + (f" by {', '.join(metrics)}" if metrics else "")
        case Promote():
            return "promote"
