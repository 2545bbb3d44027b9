"""Which metrics are there of labels?"""

from __future__ import annotations

import math
from typing import Any

from kernels.histogram import BINS
from serving.family import Buckets, Family, Kind, Of, marked
from serving.labels.reading import EVENTS

C, G, H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
MICROSECONDS = 1_000_000


def _delays(version: Any) -> Buckets:
    delays = version.quality.delays
    counts = [delays.get(at, 0) for at in range(BINS)]
    return marked(counts, version.quality.delay_us, MICROSECONDS)


FAMILIES: tuple[Family, ...] = (
    Family(
        "turnout_answers_remembered", G, lambda a: a.rows, "Answers that labels would find now.", of=Of.LABELS
    ),
    Family(
        "turnout_answers_remembered_bytes",
        G,
        lambda a: a.bytes_total,
        "Memory of the answers that labels would find.",
        of=Of.LABELS,
    ),
    Family(
        "turnout_answers_total",
        C,
        lambda v: {
            "named": v.seen.answered,
            "unnamed": v.seen.unnamed,
            "lost": v.seen.lost,
        },
        "Rows answered, by whether labels can find them.",
        of=Of.LABELLED,
        over="kind",
    ),
    Family(
        "turnout_labels_total",
        C,
        lambda v: {"right": v.quality.right, "wrong": v.quality.wrong},
        "Labels that said a class, by whether it was answered.",
        of=Of.LABELLED,
        over="answer",
    ),
    Family(
        "turnout_label_scores_total",
        C,
        lambda v: v.quality.scored,
        "Labels that said a score.",
        of=Of.LABELLED,
    ),
    Family(
        "turnout_label_score_error_total",
        C,
        lambda v: v.quality.absolute,
        "What answers were off from labels that said a score, added up.",
        of=Of.LABELLED,
    ),
    Family(
        "turnout_label_delay_seconds",
        H,
        _delays,
        "Time from an answer to its label.",
        of=Of.LABELLED,
    ),
    Family(
        "turnout_wrong_ratio",
        G,
        lambda loss: math.nan if loss.recent is None else loss.recent,
        "The part of the latest labels that say that the version was wrong, over all replicas.",
        of=Of.LOSS,
    ),
    Family(
        "turnout_degraded",
        G,
        lambda loss: int(loss.degraded),
        "Whether the version is wrong more often than it was, over all replicas: 1 if it is.",
        of=Of.LOSS,
    ),
    Family(
        "turnout_degraded_evidence",
        G,
        lambda loss: loss.evidence,
        "Evidence that it is: log10 of an e-value.",
        of=Of.LOSS,
    ),
    Family(
        "turnout_degraded_events_total",
        C,
        lambda loss: {event: loss.events.get(event, 0) for event in EVENTS},
        "How often a version degraded, and recovered.",
        of=Of.LOSS,
        over="event",
    ),
)
