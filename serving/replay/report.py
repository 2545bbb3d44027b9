"""What does a report of a replay say? The shape of `POST /v2/models/{m}/replay`, as plain JSON.

Numbers that are not defined are null, never NaN. Moments are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import TypedDict


class Latency(TypedDict):
    """How long runs took, in processor time: by the clock, others ran in between."""

    runs: int
    rows_a_run: int  # The same for all versions, so that they can be compared.
    p50_s: float
    p99_s: float


class Confidence(TypedDict):
    """How probable a version thinks the class that it decided for."""

    mean: float
    p10: float


class Labelled(TypedDict):
    """How often a version decided rightly, where that is known."""

    known: int
    right: int


class WorstFeature(TypedDict):
    """One of the features that are furthest from the reference."""

    feature: str
    psi: float | None
    psi_corrected: float | None  # Less what samples of these sizes differ by on average.
    p: float | None  # Of chi-squared, of this one look.
    drifted: bool


class TensorDrift(TypedDict):
    """One tensor against a version's own reference."""

    tensor: str
    of: str  # input or output
    rows: int
    rows_reference: int
    features: int
    features_drifted: int
    worst: list[WorstFeature]  # At most five.


class Drift(TypedDict):
    """These inputs, and this version's answers, against its own profile."""

    profile: str  # Its hash.
    thin: bool  # Of fewer than 1,000 rows, so that nothing is called drift.
    drifted: bool
    tensors: list[TensorDrift]


class Version(TypedDict):
    """What one version made of the inputs."""

    version: str
    digest: str
    fault: str  # Why it made nothing of them; empty if it was run.
    rows: int  # That it was given.
    errors: int  # Of these, that it has no answer to.
    reasons: list[str]  # Why, at most three.
    odd: int  # Answers with a NaN or an infinite number.
    latency: Latency | None
    confidence: Confidence | None
    drift: Drift | None  # Null without a profile.
    labelled: Labelled | None  # Null where no label is known.


class Flip(TypedDict):
    """Inputs for which the first version of a pair decides for one class, the second for another."""

    one: str
    other: str
    rows: int


class OutputPair(TypedDict):
    """How one output of two versions compares."""

    output: str
    rows: int  # Compared.
    misfits: int  # Not compared: of another shape.
    unequal: float | None  # Share of elements that differ, of what is no floating point.
    mean_difference: float | None  # Of numbers that are finite on both sides.
    max_difference: float | None


class LabelledPair(TypedDict):
    """Where labels are known: how often both were right, only one of them, or neither."""

    both: int
    one: int
    other: int
    neither: int


class Pair(TypedDict):
    """How the answers of two versions to the same inputs compare."""

    one: str
    other: str
    decided: int  # Rows for which both decided.
    disagreement: float | None  # Share of them for which they decided differently.
    flips: list[Flip]  # The most frequent, at most ten.
    outputs: list[OutputPair]
    labelled: LabelledPair | None


class Report(TypedDict):
    """What came of a replay."""

    model: str
    at: str
    replica: str
    rows: int  # Inputs that were replayed.
    whole_runs: int  # Of these, runs of models that do not batch, each of which counts as one.
    cut: bool  # Whether time ran out before all were.
    took_s: float
    since: str  # When the first of them arrived,
    until: str  # and the last.
    answered_by: dict[str, int]  # Of which version the callers got the answer.
    versions: list[Version]
    pairs: list[Pair]


class Standing(TypedDict):
    """What is kept of a model on one replica."""

    replica: str
    rows: int
    nbytes: int
    taken: int  # Since it is kept at all; what there is no room for any more goes,
    pushed_out: int
    passed: int  # and batches that came too fast were not taken.
    versions: list[str]  # Through which they can be replayed.


def unrun(version: str, digest: str, fault: str) -> Version:
    """Return what is said of a version that made nothing of the inputs."""
    return {
        "version": version,
        "digest": digest,
        "fault": fault,
        "rows": 0,
        "errors": 0,
        "reasons": [],
        "odd": 0,
        "latency": None,
        "confidence": None,
        "drift": None,
        "labelled": None,
    }
