"""What is promised, of which model, version and phase?"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

TOGETHER = "*"
"""All there are, as one."""
EACH = "each"
"""Every one there is, by itself; where another promise names one of them, that counts for it instead."""


class Quantity(StrEnum):
    """What can be promised; of `throughput_min` and `answers_min` the least, of all others the most."""

    P50 = "p50_ms"
    P95 = "p95_ms"
    P99 = "p99_ms"
    P999 = "p999_ms"
    ERRORS = "error_rate"
    STALE = "stale"
    THROUGHPUT = "throughput_min"
    ANSWERS = "answers_min"

    @property
    def percentile(self) -> float | None:
        """Which percentile it is, None if it is none."""
        return PERCENTILES.get(self)

    @property
    def least(self) -> bool:
        """Whether more is better."""
        return self in (Quantity.THROUGHPUT, Quantity.ANSWERS)


PERCENTILES = {Quantity.P50: 50.0, Quantity.P95: 95.0, Quantity.P99: 99.0, Quantity.P999: 99.9}
PLACES = ("model", "version", "phase")


class SloError(Exception):
    """The promises cannot be understood; the message says what, where, and what would work."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Bounds for one model, version and phase; each of these a name, `TOGETHER` or `EACH`."""

    model: str = TOGETHER
    version: str = TOGETHER
    phase: str = TOGETHER
    bounds: dict[Quantity, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place in PLACES:
            if not getattr(self, place):
                raise SloError(f'{place} is empty; give a name, "{TOGETHER}" or "{EACH}"')
        if not self.bounds:
            raise SloError(f"nothing is promised; give one of {', '.join(Quantity)}")
        for quantity, bound in self.bounds.items():
            if not (math.isfinite(bound) and bound >= 0):
                raise SloError(f"{quantity} = {bound}: expected a number from 0 up")
        if self.bounds.get(Quantity.ERRORS, 0) > 1:
            raise SloError("error_rate is a share, from 0 to 1")


@dataclass(frozen=True, slots=True)
class Slo:
    """All promises, in the order in which they were written."""

    promises: tuple[Promise, ...]


def read(path: Path) -> Slo:
    """Read a file of promises.

    Raises
    ------
    SloError
        If it is not there, is no TOML, or promises something that cannot be measured.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SloError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except SloError as error:
        raise SloError(f"{path}: {error}") from None


def parse(text: str) -> Slo:
    """Read promises from TOML; raises as `read`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SloError(f"no TOML: {error}") from None
    if unknown := sorted(set(document) - {"promise"}):
        raise SloError(f"unknown table {unknown[0]!r}; promises are [[promise]] tables")
    tables = document.get("promise", [])
    if not isinstance(tables, list) or not tables:
        raise SloError("no promises; write at least one [[promise]] table")
    return Slo(tuple(_promise(number, table) for number, table in enumerate(tables, 1)))


def _promise(number: int, table: dict[str, Any]) -> Promise:
    where = f"promise {number}"
    places, bounds = {}, {}
    for name, value in table.items():
        if name in PLACES:
            if not isinstance(value, str):
                raise SloError(f"{where}: {name} = {value!r}: expected a string")
            places[name] = value
        elif name in list(Quantity):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SloError(f"{where}: {name} = {value!r}: expected a number")
            bounds[Quantity(name)] = float(value)
        else:
            known = ", ".join([*PLACES, *Quantity])
            raise SloError(f"{where}: unknown {name!r}; known: {known}")
    try:
        return Promise(**places, bounds=bounds)
    except SloError as error:
        raise SloError(f"{where}: {error}") from None
