"""What has one version done: exact counts and durations, at almost no cost to the event loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import chain
from operator import add
from threading import Lock
from typing import Any

import numpy as np

from kernels.histogram import BINS, Integers, bins_ns, quantile_s

REQUESTS_MAX = 1024
"""Pending requests at which `Ledger.batch` folds. More would cost less in all, but hold the loop for longer:
in batches of 8, folding takes 40 µs for 256 (157 ns each), 80 µs for 1,024 (78), 133 µs for 2,048 (65).
"""
OVERDUE_MAX = 16 * REQUESTS_MAX
"""Pending requests beyond which `Ledger.batch` waits for a scrape that is folding; the list's hard bound."""
MORE = -1
"""The rows of a `Size` that holds the runs of more rows than a ledger tells apart."""


class Reason(StrEnum):
    """Why a request was not answered, in Triton's words."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


class Cause(StrEnum):
    """Why a queue turned a request away."""

    QUEUE_FULL = "queue_full"
    TIMEOUT = "timeout"
    """Its deadline, or the queue's own, passed while it waited."""
    UNAVAILABLE = "unavailable"
    """The version was being unloaded or drained."""


@dataclass(frozen=True, slots=True)
class Durations:
    """One duration of all requests: the exact sum, and a histogram of `kernels.histogram`'s bins."""

    total_ns: int = 0
    counts: tuple[int, ...] = (0,) * BINS

    def __post_init__(self) -> None:
        if len(self.counts) != BINS:
            raise ValueError(f"expected {BINS} bins, got {len(self.counts)}: counted by another release?")

    def __add__(self, other: Durations) -> Durations:
        return Durations(self.total_ns + other.total_ns, tuple(map(add, self.counts, other.counts)))

    def quantile_s(self, q: float) -> float:
        """Estimate the `q` quantile, within 1/32 of the duration of that rank; NaN if there is none."""
        return quantile_s(np.array(self.counts, np.int64), q)

    def to_json(self) -> dict[str, Any]:
        """Return a document of the bins that are not empty."""
        return {"total_ns": self.total_ns, "counts": [[i, n] for i, n in enumerate(self.counts) if n]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Durations:
        """Read what `to_json` wrote."""
        counts = [0] * BINS
        for index, count in document["counts"]:
            if not 0 <= index < BINS:
                raise ValueError(
                    f"expected a bin from 0 to {BINS - 1}, got {index}: counted by another release?"
                )
            counts[index] = count
        return cls(document["total_ns"], tuple(counts))


@dataclass(frozen=True, slots=True)
class Size:
    """The runs of one batch size, with durations summed per run: Triton's `batch_stats`."""

    rows: int
    runs: int
    input_ns: int
    infer_ns: int
    output_ns: int

    def __add__(self, other: Size) -> Size:
        assert self.rows == other.rows
        return Size(
            self.rows,
            self.runs + other.runs,
            self.input_ns + other.input_ns,
            self.infer_ns + other.infer_ns,
            self.output_ns + other.output_ns,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a ledger has counted, at one moment. Those of a node's replicas add up.

    All durations are summed per request, as Triton does: each request of a batch is charged the
    whole of the batch's run. `last_ns` is the monotonic clock's at the latest answer, 0 for none;
    that clock is one for all processes of a node.
    """

    requests: int = 0
    rows: int = 0
    runs: int = 0
    request: Durations = Durations()
    queue: Durations = Durations()
    infer: Durations = Durations()
    input_ns: int = 0
    output_ns: int = 0
    fail_ns: int = 0
    last_ns: int = 0
    failures: Mapping[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    rejections: Mapping[Cause, int] = field(default_factory=lambda: dict.fromkeys(Cause, 0))
    sizes: tuple[Size, ...] = ()
    """Ascending by rows, `MORE` last; only sizes that were run."""

    def __add__(self, other: Snapshot) -> Snapshot:
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        sums: dict[str, Any] = {name: _sum(value, getattr(other, name)) for name, value in mine.items()}
        sums["last_ns"] = max(self.last_ns, other.last_ns)
        sums["sizes"] = _merge(chain(self.sizes, other.sizes))
        return Snapshot(**sums)

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain values that `from_json` reads back."""
        document = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("request", "queue", "infer"):
            document[name] = document[name].to_json()
        document["failures"] = {str(reason): count for reason, count in self.failures.items()}
        document["rejections"] = {str(cause): count for cause, count in self.rejections.items()}
        document["sizes"] = [[s.rows, s.runs, s.input_ns, s.infer_ns, s.output_ns] for s in self.sizes]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Snapshot:
        """Read what `to_json` wrote; a `ValueError` says that it was another release."""
        values = dict(document)
        for name in ("request", "queue", "infer"):
            values[name] = Durations.from_json(values[name])
        values["failures"] = {Reason(reason): count for reason, count in values["failures"].items()}
        values["rejections"] = {Cause(cause): count for cause, count in values["rejections"].items()}
        values["sizes"] = tuple(Size(*size) for size in values["sizes"])
        return cls(**values)


def _sum(mine: Any, theirs: Any) -> Any:
    if isinstance(mine, Mapping):
        return {key: mine[key] + theirs[key] for key in mine}
    return mine + theirs


def _merge(sizes: Iterable[Size]) -> tuple[Size, ...]:
    merged: dict[int, Size] = {}
    for size in sizes:
        known = merged.get(size.rows)
        merged[size.rows] = size if known is None else known + size
    return tuple(sorted(merged.values(), key=lambda size: (size.rows == MORE, size.rows)))


class Ledger:
    """What one version has done so far.

    The event loop alone writes; any thread may take a `snapshot`. Neither waits for the other:
    the loop appends to lists, and whoever folds takes slices from their fronts, each of which the
    interpreter does in one step. The lock only keeps two from folding at once, and the loop, when
    it finds a scrape folding, leaves the rest to it.

    Parameters
    ----------
    rows_max : int
        Batches of up to this many rows are told apart by size.
    """

    __slots__ = (
        "_appended",
        "_arrivals",
        "_counts",
        "_fail_ns",
        "_failures",
        "_folded",
        "_heads",
        "_last_ns",
        "_lock",
        "_rejections",
        "_rows",
        "_runs",
        "_sizes",
        "_totals_ns",
    )

    def __init__(self, rows_max: int = 256) -> None:
        # Written by the event loop.
        self._arrivals: list[int] = []
        self._heads: list[int] = []
        self._appended = 0
        self._failures = dict.fromkeys(Reason, 0)
        self._rejections = dict.fromkeys(Cause, 0)
        self._fail_ns = 0
        # Written under the lock.
        self._lock = Lock()
        self._folded = 0
        self._rows = 0
        self._runs = 0
        self._last_ns = 0
        self._totals_ns = [0] * 5  # request, queue, infer, input, output
        self._counts: Integers = np.zeros((3, BINS), np.int64)  # request, queue, infer
        self._sizes: Integers = np.zeros((max(rows_max, 1) + 2, 4), np.int64)  # runs, input, infer, output

    def __repr__(self) -> str:
        failed = sum(self._failures.values())
        return (
            f"<Ledger: {self._appended} answered, {failed} failed, {self._appended - self._folded} to fold>"
        )

    def batch(
        self,
        arrived_ns: list[int],
        taken_ns: int,
        started_ns: int,
        ended_ns: int,
        answered_ns: int,
        rows: int,
    ) -> None:
        """Count a batch that was executed and answered.

        Parameters
        ----------
        arrived_ns : list of int
            When each request's last byte was read.
        taken_ns, started_ns, ended_ns, answered_ns : int
            When the batch left the queue, when its run began and ended, and when the answers
            were handed to the transport.
        rows : int
            1 for a model that does not batch.
        """
        requests = len(arrived_ns)
        # In this order: who folds reads the heads first, so the arrivals of each are there.
        self._arrivals += arrived_ns
        self._heads += (requests, taken_ns, started_ns, ended_ns, answered_ns, rows)
        self._appended += requests
        if self._appended - self._folded >= REQUESTS_MAX:
            self._relieve()

    def fail(self, reason: Reason, waited_ns: int = 0) -> None:
        """Count a request that got an error, `waited_ns` after it arrived."""
        self._failures[reason] += 1
        self._fail_ns += waited_ns

    def reject(self, cause: Cause, waited_ns: int = 0) -> None:
        """Count a request that the queue turned away: a failure for `Reason.REJECTED`, and its cause."""
        self._rejections[cause] += 1
        self.fail(Reason.REJECTED, waited_ns)

    def fold(self) -> None:
        """Count everything that is pending."""
        with self._lock:
            self._fold()

    def snapshot(self) -> Snapshot:
        """Return everything counted until now; safe in any thread."""
        with self._lock:
            self._fold()
            request, queue, infer = (
                Durations(total, tuple(counts))
                for total, counts in zip(self._totals_ns, self._counts.tolist(), strict=False)
            )
            return Snapshot(
                requests=self._folded,
                rows=self._rows,
                runs=self._runs,
                request=request,
                queue=queue,
                infer=infer,
                input_ns=self._totals_ns[3],
                output_ns=self._totals_ns[4],
                fail_ns=self._fail_ns,
                last_ns=self._last_ns,
                failures=dict(self._failures),
                rejections=dict(self._rejections),
                sizes=self._seen_sizes(),
            )

    def _relieve(self) -> None:
        overdue = self._appended - self._folded >= OVERDUE_MAX
        if self._lock.acquire(blocking=overdue):
            try:
                self._fold()
            finally:
                self._lock.release()

    def _fold(self) -> None:
        heads = np.array(self._heads[:], np.int64)
        if not heads.size:
            return
        del self._heads[: heads.size]
        requests, taken, started, ended, answered, rows = heads.reshape(-1, _HEAD).T
        count = int(requests.sum())
        arrived = np.array(self._arrivals[:count], np.int64)
        del self._arrivals[:count]
        self._folded += count
        self._fold_requests(arrived, taken, ended - started, answered, requests)
        self._fold_runs(np.array([started - taken, ended - started, answered - ended]), rows, requests)
        self._last_ns = max(self._last_ns, int(answered.max()))

    def _fold_requests(
        self, arrived: Integers, taken: Integers, infer: Integers, answered: Integers, requests: Integers
    ) -> None:
        durations = np.repeat([answered, taken, infer], requests, axis=1)
        durations[:2] -= arrived
        bins = bins_ns(durations)
        bins += _OFFSETS
        self._counts += np.bincount(bins.ravel(), minlength=3 * BINS).reshape(3, BINS)
        for index, total in enumerate(durations.sum(axis=1).tolist()):
            self._totals_ns[index] += total

    def _fold_runs(self, parts: Integers, rows: Integers, requests: Integers) -> None:
        self._runs += rows.size
        self._rows += int(rows.sum())
        self._totals_ns[3] += int(parts[0] @ requests)
        self._totals_ns[4] += int(parts[2] @ requests)
        at = np.minimum(rows, len(self._sizes) - 1)
        self._sizes[:, 0] += np.bincount(at, minlength=len(self._sizes))
        for column, durations in enumerate(parts, start=1):
            np.add.at(self._sizes[:, column], at, durations)

    def _seen_sizes(self) -> tuple[Size, ...]:
        last = len(self._sizes) - 1
        return tuple(
            Size(MORE if rows == last else rows, *numbers)
            for rows, numbers in enumerate(self._sizes.tolist())
            if numbers[0]
        )


_HEAD = 6
"""Integers of a batch beside its arrivals; flat lists of integers are nothing to the garbage collector."""
_OFFSETS: Integers = np.arange(3)[:, np.newaxis] * BINS
