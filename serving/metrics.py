"""Which metrics are there, and what do they say now? One table, collected when somebody asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client import metrics_core as client
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from kernels.histogram import MARK_BINS, MARKS_NS
from serving.errors import HTTP_STATUS, Failed, TurnoutError
from serving.ledger import MORE, Durations, Snapshot

Key = tuple[str, str]
"""A model and its version."""

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
REASONS: dict[type[TurnoutError], str] = {
    error: _WORD.sub("_", error.__name__).lower() for error in HTTP_STATUS
}
"""Class of an error to the `reason` that it is counted under. The set is closed."""


def reason(error: TurnoutError) -> str:
    """Return the `reason` that `error` is counted under."""
    return next((REASONS[each] for each in type(error).__mro__ if each in REASONS), REASONS[Failed])


@dataclass(frozen=True, slots=True)
class VersionReading:
    """What there is to say about one version. Those of a node's replicas add up."""

    counts: Snapshot = field(default_factory=Snapshot)
    pending_requests: int = 0
    """Admitted, and not yet in a run."""
    queue_requests: int = 0
    """Waiting in the version's queue."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """By device, such as cpu or cuda:0."""
    load_s: float = 0.0

    @property
    def loaded(self) -> bool:
        """Whether a replica that answers holds the version; else only what was counted is left of it."""
        return bool(self.memory_bytes)

    def __add__(self, other: VersionReading) -> VersionReading:
        return VersionReading(
            self.counts + other.counts,
            self.pending_requests + other.pending_requests,
            self.queue_requests + other.queue_requests,
            _sum(self.memory_bytes, other.memory_bytes),
            max(self.load_s, other.load_s),
        )


@dataclass(frozen=True, slots=True)
class ServerReading:
    """What there is to say about the HTTP listener. Those of a node's replicas add up."""

    connections: int = 0
    bodies_bytes: int = 0
    """Request bodies in memory."""
    rejections: Mapping[str, int] = field(default_factory=dict)
    """Requests that were answered with an error, by `reason`."""

    def __add__(self, other: ServerReading) -> ServerReading:
        return ServerReading(
            self.connections + other.connections,
            self.bodies_bytes + other.bodies_bytes,
            _sum(self.rejections, other.rejections),
        )


def _sum(mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[Any, Any]:
    total = dict(mine)
    for key, value in theirs.items():
        total[key] = total[key] + value if key in total else value
    return total


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is shown by one scrape. The readings of a node's replicas add up.

    The keys of `versions` are the only source of the labels `model` and `version`: give those of
    the registry of models, never names from requests.
    """

    versions: Mapping[Key, VersionReading] = field(default_factory=dict)
    server: ServerReading = ServerReading()

    def __add__(self, other: Reading) -> Reading:
        return Reading(_sum(self.versions, other.versions), self.server + other.server)

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain values that `from_json` reads back."""
        versions = []
        for key, each in self.versions.items():
            gauges = {name: getattr(each, name) for name in each.__slots__ if name != "counts"}
            versions.append([*key, each.counts.to_json(), gauges])
        return {"versions": versions, "server": asdict(self.server)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Reading:
        """Read what `to_json` wrote; a `ValueError` says that it was another release."""
        versions = {
            (model, version): VersionReading(Snapshot.from_json(counts), **gauges)
            for model, version, counts, gauges in document["versions"]
        }
        return cls(versions, ServerReading(**document["server"]))


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram as Prometheus wants it: counts at or below each edge, +Inf included, and the sum."""

    counts: list[tuple[str, int]]
    total: float


def _edge(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _buckets(durations: Durations, unit_ns: int) -> Buckets:
    # Every mark is an edge of the bins, so these counts are exact.
    ranks = np.cumsum([0, *durations.counts])
    edges = [_edge(mark / unit_ns) for mark in MARKS_NS]
    counts = list(zip(edges, ranks[MARK_BINS].tolist(), strict=True))
    return Buckets([*counts, ("+Inf", int(ranks[-1]))], durations.total_ns / unit_ns)


ROWS_MARKS = tuple(2**power for power in range(13))


def _rows_buckets(counts: Snapshot) -> Buckets:
    sizes = [size for size in counts.sizes if size.rows != MORE]
    within = [(_edge(mark), sum(size.runs for size in sizes if size.rows <= mark)) for mark in ROWS_MARKS]
    return Buckets([*within, ("+Inf", counts.runs)], counts.rows)


class Kind(StrEnum):
    """A metric's type, in Prometheus's words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, and how its value is read.

    `read` gets a `VersionReading` if the metric has the label `model`, and a `ServerReading`
    otherwise. It returns a number, or `Buckets`, or, where there is an `over`, a number for each
    value of that label.
    """

    name: str
    kind: Kind
    read: Callable[[Any], Any]
    help: str
    labels: tuple[str, ...] = ("model", "version")
    over: str = ""

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

    def add(self, family: Any, labels: Iterable[str], subject: VersionReading | ServerReading) -> None:
        """Add the samples of one subject to `family`."""
        value = self.read(subject)
        if isinstance(value, Buckets):
            family.add_metric([*labels], value.counts, value.total)
        elif self.over:
            for each, number in value.items():
                family.add_metric([*labels, each], number)
        else:
            family.add_metric([*labels], value)


C, G, H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
FAMILIES: tuple[Family, ...] = (
    Family("nv_inference_request_success", C, lambda v: v.counts.requests, "Requests answered."),
    Family(
        "nv_inference_request_failure",
        C,
        lambda v: v.counts.failures,
        "Requests that got an error, by Triton's reason.",
        over="reason",
    ),
    Family("nv_inference_count", C, lambda v: v.counts.rows, "Rows inferred: a batch of n counts n times."),
    Family("nv_inference_exec_count", C, lambda v: v.counts.runs, "Runs of the model: a batch counts once."),
    Family(
        "nv_inference_request_duration_us",
        C,
        lambda v: v.counts.request.total_ns // 1000,
        "Cumulative time from a request's last byte to its answer, in microseconds.",
    ),
    Family(
        "nv_inference_queue_duration_us",
        C,
        lambda v: v.counts.queue.total_ns // 1000,
        "Cumulative time that requests waited in the queue, in microseconds.",
    ),
    Family(
        "nv_inference_compute_input_duration_us",
        C,
        lambda v: v.counts.input_ns // 1000,
        "Cumulative time that inputs were prepared, per request, in microseconds.",
    ),
    Family(
        "nv_inference_compute_infer_duration_us",
        C,
        lambda v: v.counts.infer.total_ns // 1000,
        "Cumulative time that the model ran, per request, in microseconds.",
    ),
    Family(
        "nv_inference_compute_output_duration_us",
        C,
        lambda v: v.counts.output_ns // 1000,
        "Cumulative time that outputs were encoded, per request, in microseconds.",
    ),
    Family(
        "nv_inference_request_duration_histogram_us",
        H,
        lambda v: _buckets(v.counts.request, 1000),
        "Time from a request's last byte to its answer, in microseconds.",
    ),
    Family(
        "nv_inference_queue_duration_histogram_us",
        H,
        lambda v: _buckets(v.counts.queue, 1000),
        "Time that a request waited in the queue, in microseconds.",
    ),
    Family(
        "nv_inference_compute_infer_duration_histogram_us",
        H,
        lambda v: _buckets(v.counts.infer, 1000),
        "Time that the model ran for a request, in microseconds.",
    ),
    Family(
        "nv_inference_pending_request_count",
        G,
        lambda v: v.pending_requests,
        "Requests admitted and not yet in a run.",
    ),
    Family("nv_model_load_duration_secs", G, lambda v: v.load_s, "Time that loading took, warm-up included."),
    Family(
        "turnout_request_duration_seconds",
        H,
        lambda v: _buckets(v.counts.request, 10**9),
        "Time from a request's last byte to its answer.",
    ),
    Family("turnout_batch_rows", H, lambda v: _rows_buckets(v.counts), "Rows of a run of the model."),
    Family("turnout_queue_depth", G, lambda v: v.queue_requests, "Requests waiting in the version's queue."),
    Family(
        "turnout_queue_rejected_total",
        C,
        lambda v: v.counts.rejections,
        "Requests that the queue turned away, by cause.",
        over="reason",
    ),
    Family(
        "turnout_version_memory_bytes",
        G,
        lambda v: v.memory_bytes,
        "Memory that the version holds, by device.",
        over="device",
    ),
    Family(
        "turnout_http_rejected_total",
        C,
        lambda s: {each: s.rejections.get(each, 0) for each in REASONS.values()},
        "HTTP requests answered with an error, by the error's class.",
        labels=(),
        over="reason",
    ),
    Family("turnout_http_connections", G, lambda s: s.connections, "Open HTTP connections.", labels=()),
    Family("turnout_http_bodies_bytes", G, lambda s: s.bodies_bytes, "Request bodies in memory.", labels=()),
)


class Table(Collector):
    """The families, filled from a fresh reading at each scrape."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterator[client.Metric]:
        """Yield each family with a sample for each subject."""
        reading = self._read()
        for each in FAMILIES:
            family = each.new()
            if each.labels:
                for key, version in reading.versions.items():
                    if version.loaded or each.kind is not Kind.GAUGE:
                        each.add(family, key, version)
            else:
                each.add(family, (), reading.server)
            yield family


def registry(read: Callable[[], Reading]) -> CollectorRegistry:
    """Return a registry of all metrics, those of this process included; `read` is called at each scrape.

    It is called in the scraper's thread, so it must not wait for the event loop.
    """
    own = CollectorRegistry()
    own.register(Table(read))
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    return own
