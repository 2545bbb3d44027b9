"""What is a metric, and how does its value get from a reading into prometheus-client's terms?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from prometheus_client import metrics_core as client
from prometheus_client.utils import floatToGoString

from kernels.histogram import MARK_BINS, MARKS_NS
from serving.ledger import MORE, Durations, Snapshot


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram as Prometheus wants it: counts at or below each edge, +Inf included, and the sum."""

    counts: list[tuple[str, int]]
    total: float


def _edge(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def buckets(durations: Durations, unit_ns: int) -> Buckets:
    """Return durations in units of so many nanoseconds."""
    return marked(durations.counts, durations.total_ns, unit_ns)


def marked(counts: Sequence[int], total: int, unit: int) -> Buckets:
    """Return what bins of `kernels.histogram` count, in units of so many of what they are of."""
    # Every mark is an edge of the bins, so these counts are exact.
    ranks = np.cumsum([0, *counts])
    edges = [_edge(mark / unit) for mark in MARKS_NS]
    within = list(zip(edges, ranks[MARK_BINS].tolist(), strict=True))
    return Buckets([*within, ("+Inf", int(ranks[-1]))], total / unit)


ROWS_MARKS = tuple(2**power for power in range(13))


def rows_buckets(counts: Snapshot) -> Buckets:
    """Return the rows of runs."""
    sizes = [size for size in counts.sizes if size.rows != MORE]
    within = [(_edge(mark), sum(size.runs for size in sizes if size.rows <= mark)) for mark in ROWS_MARKS]
    return Buckets([*within, ("+Inf", counts.runs)], counts.rows)


class Kind(StrEnum):
    """A metric's type, in Prometheus's words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Of(StrEnum):
    """What a metric is of."""

    VERSION = "version"
    SERVER = "server"
    SHADOW = "shadow"
    PAIR = "pair"
    """A shadow, and one version that it is compared with."""
    DRIFT = "drift"
    """The counting for drift as a whole."""
    STREAM = "stream"
    """A tensor of a version, live or as a shadow, as far as it is counted."""
    VERDICT = "verdict"
    """The same, as far as it is judged."""
    LABELS = "labels"
    """What is remembered for labels, as a whole."""
    LABELLED = "labelled"
    """A version, live or as a shadow, as far as labels come for it."""
    LOSS = "loss"
    """The same, as far as it is judged by them."""
    ARM = "arm"
    """What was drawn for a version, or for the baseline that a canary is compared with."""
    GPU = "gpu"
    """A GPU that a replica uses."""


LABELS = {
    Of.VERSION: ("model", "version"),
    Of.SERVER: (),
    Of.SHADOW: ("model", "version"),
    Of.PAIR: ("model", "version", "primary"),
    Of.DRIFT: (),
    Of.STREAM: ("model", "version", "role", "tensor"),
    Of.VERDICT: ("model", "version", "role", "tensor"),
    Of.LABELS: (),
    Of.LABELLED: ("model", "version", "role"),
    Of.LOSS: ("model", "version", "role"),
    Of.ARM: ("model", "version", "arm"),
    Of.GPU: ("gpu_uuid",),
}


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, and how its value is read.

    `read` gets a reading of what the metric is `of`. It returns a number, or `Buckets`, or, where there is
    an `over`, a number for each value of that label; None where there is nothing to say.
    """

    name: str
    kind: Kind
    read: Callable[[Any], Any]
    help: str
    of: Of = Of.VERSION
    over: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that say what the metric is of."""
        return LABELS[self.of]

    def new(self) -> Any:
        """Return an empty family of prometheus-client's."""
        labels = [*self.labels, self.over] if self.over else list(self.labels)
        match self.kind:
            case Kind.HISTOGRAM:
                return client.HistogramMetricFamily(self.name, self.help, labels=labels)
            case Kind.GAUGE:
                return client.GaugeMetricFamily(self.name, self.help, labels=labels)
            case Kind.COUNTER if self.name.endswith("_total"):
                return client.CounterMetricFamily(self.name, self.help, labels=labels)
            case _:  # Prometheus-client appends _total to a counter's name, and Triton's have none.
                return client.UnknownMetricFamily(self.name, self.help, labels=labels)

    def add(self, family: Any, labels: Iterable[str], subject: Any) -> None:
        """Add the samples of one subject to `family`."""
        value = self.read(subject)
        if isinstance(value, Buckets):
            family.add_metric([*labels], value.counts, value.total)
        elif value is None:
            return  # Nothing is known, which is not zero.
        elif self.over:
            for each, number in value.items():
                family.add_metric([*labels, each], number)
        else:
            family.add_metric([*labels], value)
