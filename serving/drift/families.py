"""Which metrics are there of drift?"""

from __future__ import annotations

from serving.drift.reading import EVENTS, Drop
from serving.family import Family, Kind, Of
from serving.keeper import Death

C, G = Kind.COUNTER, Kind.GAUGE
FAMILIES: tuple[Family, ...] = (
    Family("turnout_drift_running", G, lambda d: d.running, "Processes that count for drift.", of=Of.DRIFT),
    Family(
        "turnout_drift_restarts_total",
        C,
        lambda d: {each.value: d.restarts.get(each, 0) for each in Death},
        "Starts of the process that counts after its death, by the cause of that.",
        of=Of.DRIFT,
        over="reason",
    ),
    Family("turnout_drift_rows_total", C, lambda s: s.rows, "Rows counted.", of=Of.STREAM),
    Family(
        "turnout_drift_dropped_total",
        C,
        lambda s: {each.value: s.dropped.get(each, 0) for each in Drop},
        "Rows that were not counted, by cause.",
        of=Of.STREAM,
        over="reason",
    ),
    Family(
        "turnout_drift_detected",
        G,
        lambda v: int(v.detected),
        "Whether the tensor drifts, over all replicas: 1 if it does.",
        of=Of.VERDICT,
    ),
    Family(
        "turnout_drift_psi_max",
        G,
        lambda v: v.psi_max,
        "The largest population stability index of the tensor's features, since their change began.",
        of=Of.VERDICT,
    ),
    Family(
        "turnout_drift_evidence",
        G,
        lambda v: v.evidence,
        "Evidence that the tensor drifts: log10 of the mean e-value of its features.",
        of=Of.VERDICT,
    ),
    Family(
        "turnout_drift_features_drifted",
        G,
        lambda v: v.features_drifted,
        "The features of the tensor that drift.",
        of=Of.VERDICT,
    ),
    Family(
        "turnout_drift_feature_psi",
        G,
        lambda v: {name: psi for name, (psi, _) in v.features.items()},
        "The feature's population stability index, of tensors with 64 features at most.",
        of=Of.VERDICT,
        over="feature",
    ),
    Family(
        "turnout_drift_feature_evidence",
        G,
        lambda v: {name: evidence for name, (_, evidence) in v.features.items()},
        "Evidence that the feature drifts: log10 of its e-value.",
        of=Of.VERDICT,
        over="feature",
    ),
    Family(
        "turnout_drift_events_total",
        C,
        lambda v: {each: v.events.get(each, 0) for each in EVENTS},
        "How often drift was detected, and was over.",
        of=Of.VERDICT,
        over="event",
    ),
)
