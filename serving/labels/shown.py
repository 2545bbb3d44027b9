"""How is it written for people what came of labels, and how good a model's answers are?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serving.cli_words import aligned, moment, plain

Document = Mapping[str, Any]
CLASSES_SHOWN_MAX = 16
"""Of a version: those of which most is wrong; JSON has all."""
EVENTS_SHOWN_MAX = 5
HEAD = ("", "class", "labels", "answers", "false positives", "false negatives")
NOTHING = "-"


def given(said: Document) -> list[str]:
    """Write what came of labels."""
    labels = said["labels"]
    counts = ", ".join(f"{said[name]:,} {word}" for name, word in OUTCOMES if said[name])
    lines = [plain(f"{said['model']}: {labels:,} label{'s' * (labels != 1)}: {counts}")]
    for name, word in OUTCOMES:
        ids = said["ids"].get(name)
        if ids:
            more = " ..." if said[name] > len(ids) else ""
            lines.append(plain(f"  {word}: {', '.join(ids)}{more}"))
    if said["missing"]:
        lines.append(
            plain(f"  NOT ANSWERED by {', '.join(said['missing'])}: give the labels again, none counts twice")
        )
    return lines


OUTCOMES = (
    ("joined", "joined"),
    ("repeated", "had one already"),
    ("misfit", "say nothing about their answer"),
    ("unmatched", "of no answer that is remembered"),
)


def quality(said: Document) -> list[str]:
    """Write how good the answers of a model are."""
    word = "" if said["enabled"] else "  nothing is remembered: labels.enabled is false"
    chance = f"intervals hold at all times, but for a chance of {said['alpha']:.4g}"
    lines = [plain(f"{said['model']}{word}  {chance}")]
    for version in said["versions"]:
        if any(version[name] for name in ("answered", "unnamed", "lost", "labelled", "why_not")):
            lines += ["", *_version(said["model"], version)]
    if said["pairs"]:
        lines += ["", "the same requests", *aligned(_pairs(said["pairs"]), "  ")]
    if said["events"]:
        lines += ["", "events, newest first", *aligned(map(_event, said["events"][:EVENTS_SHOWN_MAX]), "  ")]
    return lines


def _version(model: str, said: Document) -> Iterator[str]:
    role = "" if said["role"] == "live" else f" as a {said['role']}"
    coverage = said["coverage"]
    yield plain(
        f"{model}@{said['version']}{role}  {said['labelled']:,} labels of {coverage['of']:,} answers "
        f"({_percent(coverage['rate'])})"
    )
    yield from aligned(_remarks(said), "  ")
    classes = sorted(said["classes"], key=_wrong, reverse=True)
    if classes:
        rows = [("", *HEAD[1:]), *(_class(each) for each in classes[:CLASSES_SHOWN_MAX])]
        yield from aligned(rows, "  ")
        if len(classes) > CLASSES_SHOWN_MAX:
            yield f"    and {len(classes) - CLASSES_SHOWN_MAX} more; --json has all"


def _remarks(said: Document) -> Iterator[tuple[str, str]]:
    if said["why_not"]:
        yield "not remembered", said["why_not"]
    lacking = [(said["unnamed"], "came without an id"), (said["lost"], "were lost")]
    for count, what in lacking:
        if count:
            yield "cannot have labels", f"{count:,} answers {what}"
    if said["accuracy"]:
        yield "accuracy", _rate(said["accuracy"])
    if said["calibration"]:
        of = said["calibration"]
        yield "calibration", f"ECE {of['ece']:.4f}, Brier {of['brier']:.4f}, of {of['labels']:,} labels"
    if said["scores"] and said["scores"]["labels"]:
        of = said["scores"]
        yield "off by", f"{of['absolute']:.4g} (mean), {of['root_square']:.4g} (root mean square)"
    if said["scores"] and said["scores"]["no_number"]:
        yield "no numbers", f"{said['scores']['no_number']:,} answers with a label were none"
    if said["delay_s"]:
        yield (
            "labels came after",
            ", ".join(f"{name} {_time(each)}" for name, each in said["delay_s"].items()),
        )
    if said["loss"]:
        yield "wrong of late", _loss(said["loss"])


def _loss(said: Document) -> str:
    recent = f"{_percent(said['recent'])} of {said['recent_labels']:,}"
    if said["state"] == "learning":
        return f"{recent}; {said['labels_wanted']:,} more labels say what is usual"
    usual = f"at most {_percent(said['rate'])} is usual"
    since = f" since {moment(said['since'])}" if said["since"] else ""
    state = f"DEGRADED{since}" if said["state"] == "degraded" else "as before"
    evidence = f"evidence {said['evidence']:.1f}, an alarm needs {said['evidence_needed']:.1f}"
    return f"{recent}, {usual}: {state}; {evidence}"


def _wrong(said: Document) -> int:
    return int(said["false_positive"]["count"] + said["false_negative"]["count"])


def _class(said: Document) -> tuple[str, ...]:
    return (
        "*" if _wrong(said) else "",
        said["name"],
        f"{said['labels']:,}",
        f"{said['answers']:,}",
        _rate(said["false_positive"]),
        _rate(said["false_negative"]),
    )


def _pairs(said: list[Document]) -> Iterator[tuple[str, ...]]:
    yield ("shadow", "beside", "revision", "labels", "only shadow wrong", "only other wrong", "evidence")
    for each in said:
        yield (
            each["shadow"],
            each["primary"],
            str(each["epoch"]),
            f"{each['labels']:,}",
            f"{each['only_shadow_wrong']:,}",
            f"{each['only_primary_wrong']:,}",
            f"worse {each['evidence_worse']:.1f}, better {each['evidence_better']:.1f}",
        )


def _event(said: Document) -> tuple[str, ...]:
    rates = f"{_percent(said['recent'])} wrong of late, at most {_percent(said['rate'])} is usual"
    return moment(said["at"]), f"version {said['version']}, {said['role']}", said["event"], rates


def _rate(said: Document) -> str:
    if said["rate"] is None:
        return NOTHING
    between = f"{_percent(said['low'])} to {_percent(said['high'])}"
    return f"{_percent(said['rate'])} ({between}) {said['count']:,} of {said['of']:,}"


def _percent(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{100 * value:.3g}%"


def _time(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
