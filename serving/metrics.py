"""Which metrics are there, and what do they say now? One table, collected when somebody asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client import metrics_core as client
from prometheus_client.registry import Collector

from serving.drift.families import FAMILIES as OF_DRIFT
from serving.drift.reading import DriftReading
from serving.errors import HTTP_STATUS, Failed, TurnoutError
from serving.evidence import reading as evidence
from serving.evidence.families import FAMILIES as OF_EVIDENCE
from serving.family import Family, Kind, Of, buckets, rows_buckets
from serving.gpu.families import FAMILIES as OF_GPUS
from serving.gpu.kept import FAMILY as OF_KEPT
from serving.gpu.reading import GpuReading
from serving.http2.errors import Code
from serving.labels.families import FAMILIES as OF_LABELS
from serving.labels.reading import LabelsReading
from serving.ledger import Snapshot
from serving.shadow.comparison import ShadowReading, total
from serving.shadow.families import FAMILIES as OF_SHADOWS
from serving.share import ShareReading

Key = tuple[str, str]
"""A model and its version."""

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
REASONS: dict[type[TurnoutError], str] = {
    error: _WORD.sub("_", error.__name__).lower() for error in HTTP_STATUS
}
"""Class of an error to the `reason` that it is counted under. The set is closed."""
FAULTS = tuple(code.name for code in Code if code is not Code.NO_ERROR)


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
    share: ShareReading = field(default_factory=ShareReading)

    @property
    def loaded(self) -> bool:
        """Whether a replica that answers holds the version; else only what was counted is left of it."""
        return bool(self.memory_bytes)

    def __add__(self, other: VersionReading) -> VersionReading:
        return VersionReading(
            self.counts + other.counts,
            self.pending_requests + other.pending_requests,
            self.queue_requests + other.queue_requests,
            total(self.memory_bytes, other.memory_bytes),
            max(self.load_s, other.load_s),
            self.share + other.share,
        )


@dataclass(frozen=True, slots=True)
class ServerReading:
    """What there is to say about the listeners of HTTP and gRPC. Those of a node's replicas add up."""

    connections: int = 0
    bodies_bytes: int = 0
    """Request bodies in memory."""
    rejections: Mapping[str, int] = field(default_factory=dict)
    """Requests that were answered with an error, by `reason`."""
    rpc_connections: int = 0
    rpc_bodies_bytes: int = 0
    """Messages in memory of calls that are under way."""
    rpc_rejections: Mapping[str, int] = field(default_factory=dict)
    rpc_faults: Mapping[str, int] = field(default_factory=dict)
    """Streams and connections that were ended for what their clients did, by HTTP/2's codes."""
    kept_bytes: Mapping[str, int] = field(default_factory=dict)
    """What unloaded versions did not give back, by device."""

    def __add__(self, other: ServerReading) -> ServerReading:
        return ServerReading(
            self.connections + other.connections,
            self.bodies_bytes + other.bodies_bytes,
            total(self.rejections, other.rejections),
            self.rpc_connections + other.rpc_connections,
            self.rpc_bodies_bytes + other.rpc_bodies_bytes,
            total(self.rpc_rejections, other.rpc_rejections),
            total(self.rpc_faults, other.rpc_faults),
            total(self.kept_bytes, other.kept_bytes),
        )

    def counters(self) -> ServerReading:
        """Return what stays true of listeners that are gone."""
        return ServerReading(
            rejections=self.rejections, rpc_rejections=self.rpc_rejections, rpc_faults=self.rpc_faults
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is shown by one scrape. The readings of a node's replicas add up.

    The keys of `versions` are the only source of the labels `model` and `version`: give those of
    the registry of models, never names from requests.
    """

    versions: Mapping[Key, VersionReading] = field(default_factory=dict)
    server: ServerReading = ServerReading()
    shadows: Mapping[Key, ShadowReading] = field(default_factory=dict)
    """By the shadow's own version."""
    drift: DriftReading = field(default_factory=DriftReading)
    evidence: evidence.Readings = field(default_factory=dict)
    labels: LabelsReading = field(default_factory=LabelsReading)
    gpus: Mapping[str, GpuReading] = field(default_factory=dict)
    """By UUID."""

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            total(self.versions, other.versions),
            self.server + other.server,
            total(self.shadows, other.shadows),
            self.drift + other.drift,
            total(self.evidence, other.evidence),
            self.labels + other.labels,
            total(self.gpus, other.gpus),
        )

    def of(self, what: Of) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Yield the labels and the reading of everything that a metric can be of."""
        match what:
            case Of.VERSION:
                yield from self.versions.items()
            case Of.SERVER:
                yield (), self.server
            case Of.SHADOW:
                yield from self.shadows.items()
            case Of.PAIR:
                for key, shadow in self.shadows.items():
                    for primary, pair in shadow.pairs.items():
                        yield (*key, primary), pair
            case Of.DRIFT:
                yield (), self.drift
            case Of.STREAM:
                yield from self.drift.streams.items()
            case Of.VERDICT:
                yield from self.drift.verdicts.items()
            case Of.LABELS:
                yield (), self.labels
            case Of.LABELLED:
                yield from self.labels.versions()
            case Of.LOSS:
                yield from self.labels.losses.items()
            case Of.ARM:
                yield from self.evidence.items()
            case Of.GPU:
                for uuid, gpu in self.gpus.items():
                    yield (uuid,), gpu

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain values that `from_json` reads back."""
        versions = []
        for key, each in self.versions.items():
            gauges = {name: getattr(each, name) for name in each.__slots__ if name not in ("counts", "share")}
            versions.append([*key, each.counts.to_json(), asdict(each.share), gauges])
        shadows = [[*key, each.to_json()] for key, each in self.shadows.items()]
        rest = {"server": asdict(self.server), "shadows": shadows, "drift": self.drift.to_json()}
        rest |= {"evidence": evidence.to_json(self.evidence), "labels": self.labels.to_json()}
        rest |= {"gpus": {uuid: asdict(each) for uuid, each in self.gpus.items()}}
        return {"versions": versions, **rest}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Reading:
        """Read what `to_json` wrote; a `ValueError` says that it was another release."""
        versions = {
            (model, version): VersionReading(
                Snapshot.from_json(counts), share=ShareReading(**share), **gauges
            )
            for model, version, counts, share, gauges in document["versions"]
        }
        shadows = {
            (model, version): ShadowReading.from_json(each) for model, version, each in document["shadows"]
        }
        server, drift = ServerReading(**document["server"]), DriftReading.from_json(document["drift"])
        arms = evidence.from_json(document.get("evidence", ()))
        labels = LabelsReading.from_json(document["labels"]) if "labels" in document else LabelsReading()
        gpus = {uuid: GpuReading(**each) for uuid, each in document.get("gpus", {}).items()}
        return cls(versions, server, shadows, drift, arms, labels, gpus)


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
        lambda v: buckets(v.counts.request, 1000),
        "Time from a request's last byte to its answer, in microseconds.",
    ),
    Family(
        "nv_inference_queue_duration_histogram_us",
        H,
        lambda v: buckets(v.counts.queue, 1000),
        "Time that a request waited in the queue, in microseconds.",
    ),
    Family(
        "nv_inference_compute_infer_duration_histogram_us",
        H,
        lambda v: buckets(v.counts.infer, 1000),
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
        lambda v: buckets(v.counts.request, 10**9),
        "Time from a request's last byte to its answer.",
    ),
    Family("turnout_batch_rows", H, lambda v: rows_buckets(v.counts), "Rows of a run of the model."),
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
        "turnout_traffic_weight",
        G,
        lambda v: v.share.weight,
        "Share of the model's requests that the version is to have, from 0 to 1.",
    ),
    Family(
        "turnout_traffic_share_ratio",
        G,
        lambda v: v.share.ratio,
        "Share of the model's requests that the version got since its route was last changed, from 0 to 1.",
    ),
    Family(
        "turnout_traffic_split_evidence",
        G,
        lambda v: v.share.evidence_log10,
        "Evidence that requests are not dealt by the weight: log10 of an e-value; 4 is an alarm.",
    ),
    Family(
        "turnout_routing_epoch",
        G,
        lambda v: v.share.epoch,
        "Revision of the routing table that gave the model its route.",
    ),
    Family(
        "turnout_routed_total",
        C,
        lambda v: {"split": v.share.split_total, "sticky": v.share.sticky_total},
        "Requests that fell to the version where several share the traffic, by how.",
        over="reason",
    ),
    Family(
        "turnout_http_rejected_total",
        C,
        lambda s: {each: s.rejections.get(each, 0) for each in REASONS.values()},
        "HTTP requests answered with an error, by the error's class.",
        of=Of.SERVER,
        over="reason",
    ),
    Family("turnout_http_connections", G, lambda s: s.connections, "Open HTTP connections.", of=Of.SERVER),
    Family(
        "turnout_http_bodies_bytes", G, lambda s: s.bodies_bytes, "Request bodies in memory.", of=Of.SERVER
    ),
    Family(
        "turnout_grpc_rejected_total",
        C,
        lambda s: {each: s.rpc_rejections.get(each, 0) for each in REASONS.values()},
        "gRPC calls answered with an error, by the error's class.",
        of=Of.SERVER,
        over="reason",
    ),
    Family(
        "turnout_grpc_faults_total",
        C,
        lambda s: {each.lower(): s.rpc_faults.get(each, 0) for each in FAULTS},
        "gRPC's streams and connections ended for what their clients did, by HTTP/2's code.",
        of=Of.SERVER,
        over="reason",
    ),
    Family(
        "turnout_grpc_connections", G, lambda s: s.rpc_connections, "Open gRPC connections.", of=Of.SERVER
    ),
    Family("turnout_grpc_bodies_bytes", G, lambda s: s.rpc_bodies_bytes, "Messages in memory.", of=Of.SERVER),
    *OF_SHADOWS,
    *OF_DRIFT,
    *OF_EVIDENCE,
    *OF_LABELS,
    *OF_GPUS,
    OF_KEPT,
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
            for labels, subject in reading.of(each.of):
                if each.kind is not Kind.GAUGE or getattr(subject, "loaded", True):
                    each.add(family, labels, subject)
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
