"""What does the report about drift say? The shape of `GET /v2/models/{m}/drift`, as plain JSON.

The judge fills it, `shown.py` writes it for people. Numbers that are not defined are null, never NaN.
Moments are RFC 3339 in UTC. `evidence` is always log10 of an e-value: 0 is none, and above
`evidence_needed` it is strong enough, however often one looks.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

VerdictWord = Literal["drift", "no drift", "thin profile", "no rows", "no profile"]
"""drift and no drift are judgements. The others say why there is none: the reference has fewer rows than a
false alarm rate can be kept with; nothing was counted since the profile is there; or there is no profile."""


class Distances(TypedDict):
    """How far the rows of one window are from the reference, for one feature."""

    n: int  # Rows of the window; the fields below are null while it is 0, the three counts 0.
    psi: float | None  # Population stability index, Jeffreys +0.5 a bin.
    psi_corrected: float | None  # Less what rows so few differ by on their own; at least 0.
    js: float | None  # Jensen-Shannon divergence in nats.
    ks: float | None  # Largest difference of the binned distribution functions; null for categories.
    tv: float | None  # Total variation.
    hellinger: float | None
    w1: float | None  # Wasserstein distance in the feature's own unit; null for categories.
    chi2: float | None  # Two-sample statistic over the bins that are occupied,
    dof: int | None  # its degrees of freedom,
    p: float | None  # and its p value, of one look; the verdict does not use it.
    mean: float | None  # Of finite values; null for categories.
    std: float | None
    nan: int
    inf: int
    out: int  # Finite values below the reference's least or above its greatest; categories it does not know.


class Seen(TypedDict):
    """What there was of a feature's finite values since the stream began; null while there was none."""

    low: float | None
    high: float | None
    quantiles: dict[str, float]  # "0.01" to "0.99", within 3 %; of features without a reference, else empty.


class Category(TypedDict):
    """One category of a feature, in the sliding window and in the reference."""

    label: str  # "other" for all that have no place of their own.
    share: (
        float | None
    )  # Of the sliding window's rows, without a reference of all; null while there are none.
    reference: float | None  # Of the reference's rows; null without one.


class Feature(TypedDict):
    """One feature of a stream."""

    panel: str
    feature: str
    kind: Literal["values", "categories", "spread"]  # spread: numbers without a reference.
    drifted: bool
    evidence: float | None  # log10 e; null without a reference.
    psi_changed: float | None  # Corrected PSI of the rows since the change began: the alarm's magnitude,
    n_changed: int  # and how many rows these are.
    reference: Reference | None
    seen: Seen | None  # Null for categories.
    windows: Windows
    categories: list[Category]  # The ten whose shares differ most, without a reference the most frequent.


class Reference(TypedDict):
    """What was normal for a feature."""

    n: int
    mean: float | None  # This and the rest are null for categories.
    std: float | None
    low: float | None
    high: float | None


class Windows(TypedDict):
    """The same feature over three stretches of time."""

    start: Distances  # Since the stream began: with the profile, or with the version.
    sliding: Distances  # The last `window_s`.
    decayed: Distances  # Weighted with `half_life_s`; n is the sum of weights, rounded.


class Stream(TypedDict):
    """One tensor of one version in one role, over all replicas."""

    tensor: str
    of: Literal["input", "output"]
    role: Literal["live", "shadow"]
    view: str  # How rows became features: features, channels, projection, scores or codes.
    rows: int  # Counted since the stream began.
    dropped: int  # Not counted, because counting could not keep up.
    verdict: VerdictWord
    since: str | None  # When the verdict became so.
    evidence: float | None  # log10 of the mean e-value of its features: that anything at all has changed.
    evidence_needed: float | None  # What it must reach at this moment.
    features_drifted: int
    features: list[Feature]  # Drifted ones first, then by evidence, then by PSI of the sliding window; all.


class ProfileSaid(TypedDict):
    """Which reference counts."""

    hash: str
    made_at: str
    source: str
    digest: str  # Of the version that it was made with.
    digest_now: str  # Of the version that is served; if it is another, the profile is of another model.
    rows: int
    features: int


class Freezing(TypedDict):
    """A profile in the making, from live requests."""

    rows: int  # So far,
    wanted: int  # of so many.


class ProfileStanding(TypedDict):
    """What GET, PUT and DELETE `/v2/models/{m}/versions/{v}/profile` and POST `.../profile/freeze` answer.

    PUT takes the document that `profile_json.to_json` writes, and 400 says what is wrong with it.
    """

    model: str
    version: str
    profile: ProfileSaid | None  # As it is afterwards.
    freezing: Freezing | None
    document: NotRequired[dict[str, Any] | None]  # GET alone: the whole profile as PUT takes it.


class Version(TypedDict):
    """One version, live or as a shadow."""

    version: str
    verdict: VerdictWord  # Of its streams the first in the order in which the words stand above.
    since: str | None
    profile: ProfileSaid | None
    freezing: Freezing | None
    streams: list[Stream]  # Drifted ones first; then inputs before outputs, live before shadow, by name.


class Event(TypedDict):
    """Something that happened; the newest are kept."""

    at: str
    event: Literal["detected", "cleared"]
    version: str
    tensor: str
    role: Literal["live", "shadow"]
    features: list[str]  # The worst, at most ten.
    evidence: float | None
    psi: float | None
    n: int  # Rows of the stream when it happened.


class Settings(TypedDict):
    """What the judgement goes by, of [drift] in the configuration."""

    false_alarms: float
    horizon_s: float
    psi_min: float
    window_s: float
    half_life_s: float


class Report(TypedDict):
    """All about the drift of one model."""

    model: str
    at: str  # Of the last evaluation.
    enabled: bool
    drifted: bool  # Any stream of any version below.
    settings: Settings
    versions: list[Version]  # Newest first.
    events: list[Event]  # Newest first.
