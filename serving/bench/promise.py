"""What was promised of latency and errors, and was it kept?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.bench.tally import Total

PROMISES_MAX = 16
_UNITS_NS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_LATENCY = re.compile(r"(p[0-9]{1,2}(?:\.[0-9]{1,4})?|max)=([0-9]{1,9}(?:\.[0-9]{1,6})?)(us|ms|s)", re.ASCII)
_SHARE = re.compile(r"(errors|stale)=([0-9]{1,3}(?:\.[0-9]{1,9})?)%", re.ASCII)


class Broken(NamedTuple):
    """A promise, and what came instead."""

    promise: str
    found: str

    def __str__(self) -> str:
        return f"{self.promise} is broken: {self.found}"


@dataclass(frozen=True, slots=True)
class Promise:
    """An upper bound, as it was written: a duration in nanoseconds, or a share of the requests."""

    text: str
    what: str
    bound: float

    def broken(self, total: Total) -> Broken | None:
        """Say how `total` breaks it, if it does; requests that nobody answered in time count as late."""
        if self.what in ("errors", "stale"):
            count = total.errors if self.what == "errors" else total.stale
            share = count / total.count if total.count else 1.0
            kept, found = share <= self.bound, f"{100 * share:.4g}% ({count:,} of {total.count:,})"
        else:
            value = total.latency.quantile_ns(1.0 if self.what == "max" else float(self.what[1:]) / 100)
            kept, found = value <= self.bound, f"{value / 1e6:.4g} ms"  # NaN keeps nothing.
        return None if kept else Broken(self.text, found)


def promises(text: str) -> list[Promise]:
    """Read promises such as ``p99=5ms,errors=0.1%``.

    Raises
    ------
    ValueError
        If it is none.
    """
    parts = [each.strip() for each in text.split(",")]
    if len(parts) > PROMISES_MAX:
        raise ValueError(f"at most {PROMISES_MAX} promises at a time, got {len(parts)}")
    return [_promise(part) for part in parts]


def _promise(text: str) -> Promise:
    if found := _LATENCY.fullmatch(text):
        return Promise(text, found[1], float(found[2]) * _UNITS_NS[found[3]])
    if found := _SHARE.fullmatch(text):
        return Promise(text, found[1], float(found[2]) / 100)
    raise ValueError(
        f"{text[:40]!r} is no promise; p99=5ms, p99.9=20ms, max=1s, errors=0.1% and stale=0% are"
    )


def verdict(promised: Sequence[Promise], total: Total) -> list[Broken]:
    """Return what is broken of what was promised."""
    return [broken for each in promised if (broken := each.broken(total)) is not None]
