"""Is the version that a rollback goes to healthy on today's requests, compared with the one that it leaves?

A pure function of a report: `healthy` is None where too little is known to say either. A version that merely
runs is not called healthy: that takes its own reference, or labels, to say that its answers are still good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

ROWS_MIN = 30
"""Fewer inputs say nothing."""
LABELS_MIN = 50
"""Fewer labels say nothing about how often a version is right."""
ERRORS_MAX = 0.05
"""Share of inputs on which no healthy version fails."""
P_MAX = 0.01
"""Of the sign test by which one version is said to be more often right, or to fail more often."""
SLOWER, SLOWER_S_MIN = 2.0, 0.001
"""A version is too slow if its median run takes so many times as long, and so much longer."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Advice:
    """Whether a version is healthy, and why; None where that cannot be said."""

    healthy: bool | None
    reasons: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"healthy": self.healthy, "reasons": list(self.reasons)}


def advise(report: Document, current: str, target: str) -> Advice:
    """Judge `target` by a report of a replay through both versions.

    Parameters
    ----------
    report : mapping
        As `serving.replay.report.Report`.
    current, target : str
        The version that is left, and the one that would be gone back to.
    """
    versions = {each["version"]: each for each in report["versions"]}
    if target not in versions or current not in versions:
        return Advice(None, (f"the replay was not through both {current} and {target}",))
    ours, theirs = versions[target], versions[current]
    if ours["fault"]:
        return Advice(False, (f"version {target} could not be run: {ours['fault']}",))
    if report["rows"] < ROWS_MIN:
        return Advice(None, (f"only {_inputs(report['rows'])} could be replayed; that says nothing",))
    against = [*_errors(ours, theirs), *_odd(ours, theirs), *_slowness(ours, theirs)]
    known, told = _quality(report, ours, theirs)
    doubts, bearing = _drift(ours)
    notes = [*told, *bearing, *_disagreement(report, current, target)]
    if known is False or against:
        return Advice(False, (*against, *notes))
    if known or (not doubts and ours["drift"] is not None and not ours["drift"]["thin"]):
        return Advice(True, (_clean(report, ours), *notes))
    doubt = (
        "whether that matters only labels can say, and too few are known"
        if doubts
        else "neither a profile nor enough labels say whether its answers are still good"
    )
    return Advice(None, (_clean(report, ours), *notes, doubt))


def unknown(reason: str) -> Advice:
    """Return that nothing can be said, and why."""
    return Advice(None, (reason,))


def _clean(report: Document, ours: Document) -> str:
    errors = "no errors" if not ours["errors"] else f"{ours['errors']} errors, no more than the other"
    return f"version {ours['version']} answers today's requests: {_inputs(report['rows'])} replayed, {errors}"


def _errors(ours: Document, theirs: Document) -> list[str]:
    # Somebody answered each of them once, so whoever cannot is at fault, also if the other one is worse.
    many = ours["errors"] > ERRORS_MAX * ours["rows"]
    if not many and (theirs["fault"] or not _more(ours["errors"], theirs["errors"])):
        return []
    why = f" ({ours['reasons'][0]})" if ours["reasons"] else ""
    other = "could not be run" if theirs["fault"] else f"on {theirs['errors']}"
    words = f"fails on {ours['errors']} of {_inputs(ours['rows'])}, version {theirs['version']} {other}{why}"
    return [f"version {ours['version']} {words}"]


def _odd(ours: Document, theirs: Document) -> list[str]:
    if theirs["fault"] or not _more(ours["odd"], theirs["odd"]):
        return []
    of_the_other = f"of version {theirs['version']} {theirs['odd']}"
    return [f"{ours['odd']} answers of version {ours['version']} hold NaN or infinity, {of_the_other}"]


def _slowness(ours: Document, theirs: Document) -> list[str]:
    mine, other = ours["latency"], theirs["latency"]
    if mine is None or other is None:
        return []
    slow = mine["p50_s"] > SLOWER * other["p50_s"] and mine["p50_s"] - other["p50_s"] > SLOWER_S_MIN
    if not slow:
        return []
    words = (
        f"takes {mine['p50_s'] * 1e3:.3g} ms a run, version {theirs['version']} {other['p50_s'] * 1e3:.3g}"
    )
    return [f"version {ours['version']} {words}"]


def _quality(report: Document, ours: Document, theirs: Document) -> tuple[bool | None, list[str]]:
    """Say whether labels speak for the target or against it; None where they are too few for either."""
    labelled = ours["labelled"]
    if labelled is None or labelled["known"] < LABELS_MIN:
        return None, []
    words = [
        f"version {ours['version']} is right on {labelled['right']} of {labelled['known']} that have labels"
    ]
    pair = _pair(report, ours["version"], theirs["version"])
    counts = pair["labelled"] if pair is not None else None
    if counts is None:
        return None, words  # The other could not be run, and there is nothing to compare with.
    alone, other_alone = counts["one"], counts["other"]
    if pair is not None and pair["one"] != ours["version"]:
        alone, other_alone = other_alone, alone
    words[0] += f", version {theirs['version']} on {counts['both'] + other_alone}"
    return not _more(other_alone, alone), words


def _drift(ours: Document) -> tuple[bool, list[str]]:
    """Say whether the target's inputs or answers are no longer what they were, and in words how so."""
    drift = ours["drift"]
    if drift is None or drift["thin"]:
        return False, []
    if not drift["drifted"]:
        return False, [f"no drift from version {ours['version']}'s own profile"]
    parts = []
    for tensor in drift["tensors"]:
        if tensor["features_drifted"]:
            worst = tensor["worst"][0]
            parts.append(
                f"{tensor['of']} {tensor['tensor']!r}: {tensor['features_drifted']} of {tensor['features']} "
                f"features, most of all {worst['feature']} (PSI {worst['psi_corrected']:.2g})"
            )
    return True, [f"drift from version {ours['version']}'s own profile, in {'; '.join(parts)}"]


def _disagreement(report: Document, current: str, target: str) -> list[str]:
    pair = _pair(report, target, current)
    if pair is None or pair["disagreement"] is None:
        return []
    return [f"versions {current} and {target} decide differently on {pair['disagreement']:.1%}"]


def _pair(report: Document, one: str, other: str) -> Document | None:
    return next((each for each in report["pairs"] if {each["one"], each["other"]} == {one, other}), None)


def _more(ours: int, theirs: int) -> bool:
    """Say whether of events that are one's or the other's clearly more than half are ours (sign test)."""
    n = ours + theirs
    if ours <= theirs:
        return False
    tail = sum(comb(n, k) for k in range(ours, n + 1)) / 2**n if n <= 1000 else 0.0
    if n > 1000:
        # The normal approximation, which is good to the digit that matters here.
        return (ours - theirs) ** 2 > 5.41 * n
    return tail <= P_MAX


def _inputs(rows: int) -> str:
    return f"{rows:,} input{'s' * (rows != 1)}"
