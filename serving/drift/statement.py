"""What does the control say about the drift of a model? It fills in `serving.drift.report`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from router.table import newest_first
from serving.clock import utc
from serving.drift import report
from serving.drift.drift import Drift
from serving.drift.figures import features
from serving.drift.profile import Profile
from serving.drift.profile_json import to_json
from serving.drift.stream import Stream

EVENTS_TOLD_MAX = 100
WORDS: tuple[report.VerdictWord, ...] = get_args(report.VerdictWord)
"""The most urgent first."""


def statement(drift: Drift, model: str, now_us: int, version: str = "") -> report.Report:
    """Return all about the drift of a model, or of one of its versions."""
    named = {key[1] for key in (*drift.profiles, *drift.digests) if key[0] == model}
    named |= {stream.key[1] for stream in drift.streams(model)}
    shown = [each for each in newest_first(named) if version in ("", each)]
    versions = [_version(drift, model, each, now_us) for each in shown]
    settings = drift.settings
    return {
        "model": model,
        "at": utc(drift.evaluated_us),
        "enabled": settings.enabled,
        "drifted": any(each["verdict"] == "drift" for each in versions),
        "settings": {
            "false_alarms": settings.false_alarms,
            "horizon_s": settings.horizon_s,
            "psi_min": settings.psi_min,
            "window_s": settings.window_s,
            "half_life_s": settings.half_life_s,
        },
        "versions": versions,
        "events": [_event(each) for each in drift.events.of(model) if version in ("", each["version"])][
            :EVENTS_TOLD_MAX
        ],
    }


def standing(drift: Drift, model: str, version: str, *, whole: bool = False) -> report.ProfileStanding:
    """Return which profile counts for a version; the profile itself, too, if `whole`."""
    profile = drift.profiles.get((model, version))
    said: report.ProfileStanding = {
        "model": model,
        "version": version,
        "profile": _profile(drift, profile),
        "freezing": freezing(drift, model, version),
    }
    if whole:
        said["document"] = to_json(profile) if profile is not None else None
    return said


def freezing(drift: Drift, model: str, version: str) -> report.Freezing | None:
    """Return how far the profile is that is made of live requests, if one is."""
    harvest = drift.harvests.get((model, version))
    if harvest is None:
        return None
    return {"rows": min(harvest.rows, harvest.terms.wanted), "wanted": harvest.terms.wanted}


def _version(drift: Drift, model: str, version: str, now_us: int) -> report.Version:
    streams = [_stream(drift, stream, now_us) for stream in drift.streams(model) if stream.key[1] == version]
    streams.sort(key=_urgency)
    profile = drift.profiles.get((model, version))
    nothing: report.VerdictWord = "no profile" if drift.counting(model, version) is None else "no rows"
    said = {each["verdict"] for each in streams} or {nothing}
    word = next(each for each in WORDS if each in said)
    since = [each["since"] for each in streams if each["verdict"] == word and each["since"] is not None]
    return {
        "version": version,
        "verdict": word,
        "since": min(since, default=None),
        "profile": _profile(drift, profile),
        "freezing": freezing(drift, model, version),
        "streams": streams,
    }


def _urgency(stream: report.Stream) -> tuple[bool, bool, bool, str]:
    return (
        stream["verdict"] != "drift",
        stream["of"] == "output",
        stream["role"] == "shadow",
        stream["tensor"],
    )


def _stream(drift: Drift, stream: Stream, now_us: int) -> report.Stream:
    model, _, role, tensor = stream.key
    judge, look = stream.judge, stream.look
    judged = judge is not None and stream.word not in ("thin profile", "no profile")
    since_us = judge.since_us if judge is not None and judge.since_us else stream.began_us
    return {
        "tensor": tensor,
        "of": look.of if look is not None else "input",
        "role": "shadow" if role == "shadow" else "live",
        "view": str(look.view) if look is not None else "",
        "rows": stream.sources.rows,
        "dropped": stream.sources.dropped,
        "verdict": stream.word,
        "since": utc(since_us),
        "evidence": judge.evidence if judge is not None and judged else None,
        "evidence_needed": drift.bar(model, now_us).evidence if judged else None,
        "features_drifted": int(judge.named.sum()) if judge is not None else 0,
        "features": features(stream, now_us / 1e6),
    }


def _profile(drift: Drift, profile: Profile | None) -> report.ProfileSaid | None:
    if profile is None:
        return None
    return {
        "hash": profile.hash,
        "made_at": profile.made_at,
        "source": profile.source,
        "digest": profile.digest,
        "digest_now": drift.digests.get((profile.model, profile.version), ""),
        "rows": profile.n,
        "features": profile.features,
    }


def _event(event: Mapping[str, Any]) -> report.Event:
    told: Any = {name: event.get(name) for name in report.Event.__annotations__}
    return told  # type: ignore[no-any-return]
