"""What came of the requests that fell to one version in one epoch? Integers that add up over replicas.

An *event* is what a request had that it should not have had. Where a request was drawn at random it is the
unit, whatever its rows are. Where its caller's key decided, the caller is: of one caller an event counts
once, however often it happens, and callers who share a slot of the route are one. `Counts.events` counts so.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import add
from typing import Any

from router.table import WHOLE_BP

BITMAP_BYTES = WHOLE_BP // 8
QUANTILES = (50, 90, 99)
"""Of the stable version's latency, which `Counts.late` and `Terms.late_ns` are about."""

REQUEST, FAILURE, TIMEOUT, REJECTED, REFUSED = "request", "failure", "timeout", "rejected", "refused"
NAN, LOW_CONFIDENCE, LABELLED, WRONG = "nan", "low-confidence", "labelled", "wrong"
FALSE_POSITIVE, FALSE_NEGATIVE = "false-positive", "false-negative"
LATENCIES = tuple(f"latency-p{quantile}" for quantile in QUANTILES)
OF_A_CLASS = (FALSE_POSITIVE, FALSE_NEGATIVE)
METRICS = (
    *(FAILURE, TIMEOUT, REJECTED, REFUSED, NAN, *LATENCIES, LOW_CONFIDENCE),
    *(WRONG, FALSE_POSITIVE, FALSE_NEGATIVE),
)
"""What an event can be; those of `OF_A_CLASS` are of a class each."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Everything that was counted of one version in one epoch, in one arm.

    Attributes
    ----------
    requests : int
        That were answered, or got an error; not those whose client had left.
    failed, timeout : int
        Got an error of the model's or the server's; passed their deadline, waiting or running.
    rejected : int
        Found the queue full.
    refused : int
        Got an error for what they asked: shapes or values that the version does not take.
    nan : int
        Were answered with a NaN or an infinity.
    scored, unsure : int
        Were answered with scores that were compared with `Terms.confidence`; had a top score below it.
    timed : int
        Were answered, and compared with `Terms.late_ns`.
    late : tuple of int
        Took longer than each of these.
    labelled, wrong : int
        Whose label came, and said something else than the answer.
    fp, fn : mapping of str to int
        By class: were answered with it and were another; were it and were answered with another.
    held : mapping of str to int
        By event (as `key` spells it): how many of these requests came by their caller's key.
    callers : mapping of str to bytes
        The same as a bitmap of the route's slots, the lowest bit of the first byte first: whose they were.
    """

    requests: int = 0
    failed: int = 0
    timeout: int = 0
    rejected: int = 0
    refused: int = 0
    nan: int = 0
    scored: int = 0
    unsure: int = 0
    timed: int = 0
    late: tuple[int, int, int] = (0, 0, 0)
    labelled: int = 0
    wrong: int = 0
    fp: Mapping[str, int] = field(default_factory=dict)
    fn: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    callers: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, bitmap in self.callers.items():
            if len(bitmap) != BITMAP_BYTES:
                raise ValueError(f"expected {BITMAP_BYTES} bytes of callers, got {len(bitmap)} - at {name!r}")

    def __add__(self, other: Counts) -> Counts:
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in PLAIN}
        sums |= {name: _total(getattr(self, name), getattr(other, name)) for name in MAPPED}
        sums["late"] = tuple(map(add, self.late, other.late))
        return Counts(**sums, callers=_either(self.callers, other.callers))

    def times(self, metric: str, of: str = "") -> int:
        """Return how many requests had an event, whoever their callers were.

        `REQUEST` and `LABELLED` count those that finished, and those with a label.
        """
        match metric:
            case "request":
                return self.requests
            case "failure":
                return self.failed + self.timeout
            case "low-confidence":
                return self.unsure
            case "false-positive":
                return self.fp.get(of, 0)
            case "false-negative":
                return self.fn.get(of, 0)
            case "timeout" | "rejected" | "refused" | "nan" | "labelled" | "wrong":
                count: int = getattr(self, metric)
                return count
        return self.late[LATENCIES.index(metric)]

    def total(self, metric: str) -> int:
        """Return the same of all classes together."""
        match metric:
            case "false-positive":
                return sum(self.fp.values())
            case "false-negative":
                return sum(self.fn.values())
        return self.times(metric)

    def events(self, metric: str, of: str = "", seen: bytes = b"") -> int:
        """Return how many units had an event: requests that were drawn, and callers that a key dealt.

        Parameters
        ----------
        metric, of : str
            One of `METRICS`, and the class if it is of one.
        seen : bytes
            A bitmap of callers that are not to count: those that counted in an earlier epoch.
        """
        name = key(metric, of)
        callers = int.from_bytes(self.callers.get(name, b""), "little") & ~int.from_bytes(seen, "little")
        return self.times(metric, of) - self.held.get(name, 0) + callers.bit_count()

    def callers_of(self, metric: str, of: str = "") -> bytes:
        """Return the bitmap of the callers who had an event; empty if none had."""
        return self.callers.get(key(metric, of), b"")

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back, without what is zero."""
        document: dict[str, Any] = {name: value for name in PLAIN if (value := getattr(self, name))}
        document |= {name: dict(value) for name in MAPPED if (value := getattr(self, name))}
        if any(self.late):
            document["late"] = list(self.late)
        if self.callers:
            document["callers"] = {name: b64encode(each).decode() for name, each in self.callers.items()}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Counts:
        """Read what `to_json` wrote; a `ValueError` or `TypeError` says that it was another release."""
        values = dict(document)
        values["late"] = tuple(values.get("late", (0, 0, 0)))
        if len(values["late"]) != len(QUANTILES):
            raise ValueError(f"expected {len(QUANTILES)} counts of late answers, got {len(values['late'])}")
        values["callers"] = {name: b64decode(each) for name, each in values.get("callers", {}).items()}
        return cls(**values)


MAPPED = ("fp", "fn", "held")
PLAIN = tuple(each.name for each in fields(Counts) if each.name not in (*MAPPED, "late", "callers"))


def key(metric: str, of: str = "") -> str:
    """Return what an event is called where there are events of several classes."""
    return f"{metric}:{of}" if metric in OF_A_CLASS else metric


def either(one: bytes, other: bytes) -> bytes:
    """Return the bitmap of the callers who are in one of two; an empty one is nobody's."""
    both = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return both.to_bytes(BITMAP_BYTES, "little")


def _either(mine: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: either(mine.get(name, b""), theirs.get(name, b"")) for name in (*mine, *theirs)}


def _total(mine: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    return {name: mine.get(name, 0) + theirs.get(name, 0) for name in (*mine, *theirs)}
