"""Which figures are shown of a stream's features? The numbers of `serving.drift.report`, from counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import distance, loglinear
from serving.drift import report
from serving.drift.case import Case
from serving.drift.judge import LN10
from serving.drift.profile import Alphabet, Edges
from serving.drift.stream import Stream
from serving.drift.tally import Tally
from serving.drift.view import Kind, Panel
from serving.drift.windows import Span

CATEGORIES_SHOWN_MAX = 10
QUANTILES = ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")
NOTHING: report.Distances = {
    "n": 0,
    "psi": None,
    "psi_corrected": None,
    "js": None,
    "ks": None,
    "tv": None,
    "hellinger": None,
    "w1": None,
    "chi2": None,
    "dof": None,
    "p": None,
    "mean": None,
    "std": None,
    "nan": 0,
    "inf": 0,
    "out": 0,
}

Numbers = NDArray[np.float64]


def features(stream: Stream, now_s: float) -> list[report.Feature]:
    """Return the figures of all features: drifted ones first, then by evidence, then by sliding PSI."""
    total = stream.sources.total()
    shown: list[report.Feature] = []
    if stream.judge is None:
        look = stream.look
        for panel in look.panels if look is not None else ():
            if look is not None and panel.name in total:
                shown += _unreferenced(panel, total[panel.name], look.datatype)
        return shown
    judge = stream.judge
    for (name, case), named, log_e in zip(
        stream.cases.items(), judge.per_case(judge.named), judge.per_case(judge.log_e), strict=True
    ):
        shown += _referenced(name, case, total.get(name), now_s, named.tolist(), log_e)
    return sorted(shown, key=_urgency)


def _urgency(feature: report.Feature) -> tuple[bool, float, float]:
    psi = feature["windows"]["sliding"]["psi"]
    return not feature["drifted"], -(feature["evidence"] or 0.0), -(psi if psi is not None else 0.0)


def _referenced(
    panel: str, case: Case, total: Tally | None, now_s: float, named: list[bool], log_e: Numbers
) -> Iterator[report.Feature]:
    start = case.span(total) if total is not None else None
    sliding = case.sliding.total(now_s)
    columns = [_windows(case, span, total) for span in (start, sliding, case.decayed.total(now_s))]
    seen = _seen(total, None) if case.ordered and total is not None else [None] * len(case.features)
    categories = _categories(case, sliding)
    psi, rows = _listed(case.psi_changed()), case.detector.since_rows.tolist()
    for at, name in enumerate(case.features):
        begin, slide, decay = (column[at] for column in columns)
        yield {
            "panel": panel,
            "feature": name,
            "kind": "values" if case.ordered else "categories",
            "drifted": named[at],
            "evidence": max(float(log_e[at]) / LN10, 0.0),
            "psi_changed": psi[at],
            "n_changed": rows[at],
            "reference": _reference(case, at),
            "seen": seen[at],
            "windows": {"start": begin, "sliding": slide, "decayed": decay},
            "categories": categories[at],
        }


def _unreferenced(panel: Panel, tally: Tally, datatype: str) -> Iterator[report.Feature]:
    names = panel.features
    finite, nan, inf = _finite(tally)
    mean, std = _moments(tally.sums, finite, np.zeros(len(names)), np.ones(len(names)))
    numbers = tally.kind is not Kind.CATEGORIES
    seen = _seen(tally, _quantiles(tally)) if numbers else [None] * len(names)
    categories = _learnt(tally, datatype)
    for at, name in enumerate(names):
        yield {
            "panel": panel.name,
            "feature": name,
            "kind": "spread" if numbers else "categories",
            "drifted": False,
            "evidence": None,
            "psi_changed": None,
            "n_changed": 0,
            "reference": None,
            "seen": seen[at],
            "windows": {
                "start": {
                    **NOTHING,
                    "n": tally.n,
                    "mean": mean[at],
                    "std": std[at],
                    "nan": nan[at],
                    "inf": inf[at],
                },
                "sliding": NOTHING,
                "decayed": NOTHING,
            },
            "categories": categories[at],
        }


def _reference(case: Case, at: int) -> report.Reference:
    panel = case.panel
    if not isinstance(panel, Edges):
        return {"n": panel.n, "mean": None, "std": None, "low": None, "high": None}
    mean, std, low, high = (float(each[at]) for each in (panel.mean, panel.std, panel.low, panel.high))
    return {"n": panel.n, "mean": mean, "std": std, "low": low, "high": high}


def _windows(case: Case, span: Span | None, total: Tally | None) -> list[report.Distances]:
    """Return how far the rows of a window are from the reference, feature by feature."""
    size = len(case.features)
    if span is None or total is None or round(span.n) == 0:
        return [NOTHING] * size
    live = case.bins(span.counts)
    columns: dict[str, list[Any]] = {"n": [round(span.n)] * size}
    between = distance.between(case.reference, live, ordered=case.ordered)
    for name, values in between._asdict().items():
        columns["psi_corrected" if name == "psi_excess" else name] = _listed(values)
    columns["dof"] = [None if each is None else int(each) for each in columns["dof"]]
    columns |= _numbers(case, span, live, total) if isinstance(case.panel, Edges) else _codes(live)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]  # type: ignore[misc]


def _numbers(case: Case, span: Span, live: NDArray[Any], total: Tally) -> dict[str, list[Any]]:
    edges = case.panel
    assert isinstance(edges, Edges)
    assert total.extremes is not None
    nan, inf = live[:, -1], span.counts[-1]
    last = np.isfinite(edges.edges).sum(axis=0)
    bins = np.arange(edges.bins)[None, :]
    beyond = ((bins == 0) | (bins >= last[:, None])) & (bins < edges.bins - 1)
    mean, std = _moments(span.sums, live.sum(axis=1) - nan - inf, edges.mean, edges.std)
    low = np.minimum(edges.low, total.extremes[0])
    high = np.maximum(edges.high, total.extremes[1])
    return {
        "w1": _listed(distance.w1(case.reference[:, :-1], live[:, :-1], edges.edges, low, high)),
        "mean": mean,
        "std": std,
        "nan": _whole(nan),
        "inf": _whole(inf),
        "out": _whole(np.maximum(np.where(beyond, live, 0).sum(axis=1) - inf, 0)),
    }


def _codes(live: NDArray[Any]) -> dict[str, list[Any]]:
    size = len(live)
    return {
        "w1": [None] * size,
        "mean": [None] * size,
        "std": [None] * size,
        "nan": [0] * size,
        "inf": [0] * size,
        "out": _whole(live[:, -1]),
    }


def _categories(case: Case, sliding: Span) -> list[list[report.Category]]:
    """Return of each feature the categories whose shares differ most."""
    alphabet = case.panel
    if not isinstance(alphabet, Alphabet):
        return [[] for _ in case.features]
    live = case.bins(sliding.counts)
    reference = case.reference / alphabet.n
    shares = live / max(sliding.n, 1)
    shown = []
    for at, labels in enumerate(alphabet.labels):
        places = [*range(len(labels)), alphabet.bins - 1]
        places.sort(key=lambda place: -abs(shares[at, place] - reference[at, place]))
        shown.append(
            [
                report.Category(
                    label=labels[place] if place < len(labels) else "other",
                    share=float(shares[at, place]) if sliding.n else None,
                    reference=float(reference[at, place]),
                )
                for place in places[:CATEGORIES_SHOWN_MAX]
            ]
        )
    return shown


def _learnt(tally: Tally, datatype: str) -> list[list[report.Category]]:
    """Return of each feature without a reference its most frequent categories."""
    if tally.alphabet is None or tally.sizes is None:
        return [[] for _ in range(tally.features)]
    shown = []
    for at, size in enumerate(tally.sizes.tolist()):
        codes, counts = tally.alphabet[:size, at].tolist(), tally.counts[:size, at].tolist()
        labels = [f"#{code % (1 << 64):016x}" if datatype == "BYTES" else str(code) for code in codes]
        often = [*zip(counts, labels, strict=True), (int(tally.counts[-1, at]), "other")]
        often.sort(key=lambda each: (-each[0], each[1]))
        shown.append(
            [
                report.Category(label=label, share=count / tally.n if tally.n else None, reference=None)
                for count, label in often[:CATEGORIES_SHOWN_MAX]
            ]
        )
    return shown


def _finite(tally: Tally) -> tuple[NDArray[Any], list[int], list[int]]:
    """Return how many finite values there were without a reference, and how many NaN and Inf."""
    size = tally.features
    match tally.kind:
        case Kind.CATEGORIES:
            return np.full(size, tally.n), [0] * size, [0] * size
        case Kind.VALUES:
            nan, inf = tally.counts[0], tally.counts[1]
        case Kind.SPREAD:
            nan = tally.counts[loglinear.NAN]
            inf = tally.counts[[loglinear.NEGATIVE_INFINITY, loglinear.POSITIVE_INFINITY]].sum(axis=0)
    return tally.n - nan - inf, nan.tolist(), inf.tolist()


def _moments(
    sums: Numbers | None, finite: NDArray[Any], shift: Numbers, scale: Numbers
) -> tuple[list[float | None], list[float | None]]:
    """Return mean and standard deviation from the sums of z = (value - shift) / scale."""
    if sums is None:
        return [None] * len(finite), [None] * len(finite)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = sums[0] / finite
        std = np.sqrt(np.maximum(sums[1] / finite - mean * mean, 0))
        return _listed(shift + scale * mean), _listed(scale * std)


def _seen(tally: Tally, quantiles: list[dict[str, float]] | None) -> list[report.Seen | None]:
    assert tally.extremes is not None
    lows, highs = (_listed(each) for each in tally.extremes)
    return [
        report.Seen(low=low, high=high, quantiles=quantiles[at] if quantiles is not None else {})
        for at, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


def _quantiles(tally: Tally) -> list[dict[str, float]] | None:
    if tally.kind is not Kind.SPREAD:
        return None
    columns = [_listed(loglinear.quantile(tally.counts, float(q))) for q in QUANTILES]
    return [
        {q: value for q, value in zip(QUANTILES, row, strict=True) if value is not None}
        for row in zip(*columns, strict=True)
    ]


def _listed(values: NDArray[Any]) -> list[float | None]:
    """Return numbers as JSON has them: None where there is none."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _whole(values: NDArray[Any]) -> list[int]:
    return [round(value) for value in values.tolist()]
