"""How is the report about drift written for people? At a glance: the worst of each tensor first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from serving.cli_words import aligned, moment, plain
from serving.drift.report import (
    Distances,
    Event,
    Feature,
    ProfileSaid,
    ProfileStanding,
    Report,
    Stream,
    Version,
)

Document = dict[str, Any]
"""As it came in JSON."""
WORST, CALM = 8, 3
"""Features of a stream that are shown, of one that drifted and of any other; JSON has all."""
EVENTS_SHOWN_MAX = 5
CATEGORIES_SHOWN = 2
HASH_CHARACTERS = 12
HEAD = (
    "", "feature", "evidence", "change (rows)", "n", "PSI", "KS", "JS", "W1", "chi2/dof", "now (reference)",
    "NaN", "Inf", "out",
)  # fmt: skip


def report(document: Document) -> list[str]:
    """Write how all versions of a model stand, from a `Report`."""
    said = cast("Report", document)
    word = "drift" if said["drifted"] else "no drift"
    if not said["enabled"]:
        word = "nothing is counted: drift.enabled is false"
    lines = [plain(f"{said['model']}  {word}")]
    for version in said["versions"]:
        lines += ["", *_version(said["model"], version)]
    if said["events"]:
        lines += ["", "events, newest first", *aligned(map(_event, said["events"][:EVENTS_SHOWN_MAX]), "  ")]
    return lines


def standing(document: Document) -> list[str]:
    """Write which profile counts for a version, from a `ProfileStanding`."""
    said = cast("ProfileStanding", document)
    name = f"{said['model']}@{said['version']}"
    lines = [plain(f"{name}: {_profile(said['profile'])}")]
    if said["freezing"]:
        lines.append(f"  {_freezing(said['freezing']['rows'], said['freezing']['wanted'])}")
    return lines


def _version(model: str, version: Version) -> Iterator[str]:
    name = f"{model}@{version['version']}"
    profile = f"; {_profile(version['profile'])}" if version["profile"] else ""
    yield plain(f"{name}  {version['verdict']}{_since(version['since'])}{profile}")
    if version["profile"] is None and version["freezing"] is None:
        yield plain(f"  turnout profile {name} --from FILE makes one, or --freeze N from requests")
    if version["freezing"]:
        yield f"  {_freezing(version['freezing']['rows'], version['freezing']['wanted'])}"
    for stream in version["streams"]:
        if stream["rows"] or stream["verdict"] != "no profile":
            yield from _stream(stream)


def _profile(profile: ProfileSaid | None) -> str:
    if profile is None:
        return "no profile"
    said = f"profile {profile['hash'][:HASH_CHARACTERS]} of {profile['rows']:,} rows from {profile['source']}"
    if profile["digest"] and profile["digest_now"] and profile["digest"] != profile["digest_now"]:
        said += ", MADE WITH OTHER FILES than the version has now"
    return said


def _freezing(rows: int, wanted: int) -> str:
    return f"a profile is being made from requests: {rows:,} of {wanted:,} rows so far"


def _stream(stream: Stream) -> Iterator[str]:
    role = "" if stream["role"] == "live" else f", {stream['role']}"
    said = f"  {stream['tensor']} ({stream['of']}{role}): {stream['verdict']}{_since(stream['since'])}"
    if stream["verdict"] == "drift":
        said += f" in {stream['features_drifted']} of {len(stream['features'])} features"
    if stream["evidence"] is not None and stream["evidence_needed"] is not None:
        said += f"; evidence {stream['evidence']:.1f}, an alarm needs {stream['evidence_needed']:.1f}"
    said += f"; {stream['rows']:,} rows"
    if stream["dropped"]:
        said += f", {stream['dropped']:,} NOT COUNTED"
    yield plain(said)
    shown = WORST if stream["verdict"] == "drift" else CALM
    worst = [each for each in stream["features"][:shown] if each["windows"]["start"]["n"]]
    if worst:
        yield from aligned([HEAD, *map(_feature, worst)], "    ")
    more = len(stream["features"]) - shown
    if worst and more > 0:
        yield f"    and {more} more; --json has all"


def _feature(feature: Feature) -> tuple[str, ...]:
    """Write a row: of the sliding window, or of all rows while that is empty."""
    sliding = feature["windows"]["sliding"]
    now = sliding if sliding["n"] else feature["windows"]["start"]
    change = (
        "-"
        if feature["psi_changed"] is None
        else f"{_number(feature['psi_changed'])} ({feature['n_changed']:,})"
    )
    return (
        "*" if feature["drifted"] else "",
        feature["feature"],
        _number(feature["evidence"]),
        change,
        f"{now['n']:,}",
        *(_number(now[name]) for name in ("psi", "ks", "js", "w1")),
        "-" if now["chi2"] is None else f"{now['chi2']:.3g}/{now['dof']}",
        _moments(feature, now) if feature["kind"] != "categories" else _categories(feature),
        *(f"{now[name]:,}" for name in ("nan", "inf", "out")),
    )


def _moments(feature: Feature, now: Distances) -> str:
    was = feature["reference"]
    mean = f" ({_number(was['mean'])})" if was else ""
    # What does not vary has 1 in its profile, to divide by.
    std = f" ({_number(was['std'] if was['low'] != was['high'] else 0.0)})" if was else ""
    return f"mean {_number(now['mean'])}{mean} std {_number(now['std'])}{std}"


def _categories(feature: Feature) -> str:
    return ", ".join(
        f"{each['label']}: {_percent(each['share'])}"
        + (f" ({_percent(each['reference'])})" if each["reference"] is not None else "")
        for each in feature["categories"][:CATEGORIES_SHOWN]
    )


def _event(event: Event) -> tuple[str, ...]:
    features = ", ".join(event["features"])
    return (
        moment(event["at"]),
        f"{event['tensor']} of version {event['version']}"
        + (" (shadow)" if event["role"] == "shadow" else ""),
        event["event"],
        f"evidence {_number(event['evidence'])}, PSI {_number(event['psi'])}"
        + (f": {features}" if features else ""),
    )


def _since(at: str | None) -> str:
    return f" since {moment(at)}" if at else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
