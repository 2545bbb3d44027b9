"""Which metrics are there of shadows?"""

from __future__ import annotations

from serving.family import Family, Kind, Of, buckets
from serving.keeper import Death
from serving.shadow.comparison import Drop

C, G, H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
FAMILIES: tuple[Family, ...] = (
    Family("turnout_shadow_running", G, lambda s: s.running, "Processes that run the shadow.", of=Of.SHADOW),
    Family(
        "turnout_shadow_restarts_total",
        C,
        lambda s: {each.value: s.restarts.get(each, 0) for each in Death},
        "Starts of the shadow's process after its death, by the cause of that.",
        of=Of.SHADOW,
        over="reason",
    ),
    Family("turnout_shadow_rows_total", C, lambda p: p.rows, "Rows compared.", of=Of.PAIR),
    Family(
        "turnout_shadow_dropped_total",
        C,
        lambda p: {each.value: p.dropped.get(each, 0) for each in Drop},
        "Rows drawn for the shadow and not compared, by cause.",
        of=Of.PAIR,
        over="reason",
    ),
    Family(
        "turnout_shadow_disagreement_ratio",
        G,
        lambda p: p.each("disagreement"),
        "The part of the rows whose class, label or string differs.",
        of=Of.PAIR,
        over="output",
    ),
    Family(
        "turnout_shadow_difference_max",
        G,
        lambda p: p.each("difference_max"),
        "The largest difference of two scores.",
        of=Of.PAIR,
        over="output",
    ),
    Family(
        "turnout_shadow_difference_mean",
        G,
        lambda p: p.each("difference_mean"),
        "The mean difference of two scores, either way.",
        of=Of.PAIR,
        over="output",
    ),
    Family(
        "turnout_shadow_rank_correlation",
        G,
        lambda p: p.each("correlation"),
        "How alike scores are ordered: 1 is alike, -1 the other way round.",
        of=Of.PAIR,
        over="output",
    ),
    Family(
        "turnout_shadow_run_duration_seconds",
        H,
        lambda p: buckets(p.shadow, 10**9),
        "Processor time of the shadow's runs of whole batches.",
        of=Of.PAIR,
    ),
    Family(
        "turnout_shadow_primary_run_duration_seconds",
        H,
        lambda p: buckets(p.primary, 10**9),
        "Time of the runs of the same batches for their answers.",
        of=Of.PAIR,
    ),
)
