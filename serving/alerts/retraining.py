"""When is a model to be trained anew? When it has drifted for long, or lost quality, and not again and again.

Decided from the signs that there are at a moment, not from what was heard of them: a sign that is there no
more, for whatever reason, counts no more. What was seen and asked before is a value, kept between runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Any

from serving.alerts.durable import replace_durably
from serving.alerts.event import Event, Kind, event_id
from serving.alerts.settings import Retraining as Settings
from serving.clock import utc
from serving.private import NotPrivate, read_bytes

log = logging.getLogger("turnout.alerts")

FILE = "retraining.json"
FILE_BYTES_MAX = 8 << 20
SIGNS_MAX = 4096
"""Of all models; further ones do not count."""
SIGNS_TOLD_MAX = 20


class Cause(StrEnum):
    """Why a model may have to be trained anew."""

    DRIFT = "drift"
    QUALITY = "quality"


@dataclass(frozen=True, slots=True)
class Sign:
    """What is amiss with a version now: which tensor has drifted, or by which measure it is worse."""

    cause: Cause
    model: str
    version: str
    what: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells it from the model's other signs."""
        return f"{self.cause}:{self.version}:{self.what}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one model: since when each sign is there, and when training was last asked for."""

    since_us: Mapping[str, int] = field(default_factory=dict)
    asked_us: int | None = None


def seen(standing: Standing, signs: Iterable[Sign], known: Collection[Cause], now_us: int) -> Standing:
    """Return how a model stands once these signs are there, and no others by the causes that are known.

    What is said to be later than now is from before a clock was set back; it counts from now on.
    """
    unknown = {key: us for key, us in standing.since_us.items() if Cause(key.partition(":")[0]) not in known}
    there = {sign.key: standing.since_us.get(sign.key, now_us) for sign in signs}
    since_us = {key: min(us, now_us) for key, us in (unknown | there).items()}
    asked_us = None if standing.asked_us is None else min(standing.asked_us, now_us)
    return Standing(since_us, asked_us)


def due(
    model: str, standing: Standing, signs: Collection[Sign], settings: Settings, now_us: int
) -> Event | None:
    """Return the request to train a model anew, if it is to be made now."""
    asked_us = standing.asked_us
    if asked_us is not None and now_us - asked_us < settings.cool_down_s * 1e6:
        return None
    telling = [sign for sign in signs if _lasts(sign, standing, settings, now_us)]
    if not telling:
        return None
    first_us = min(standing.since_us[sign.key] for sign in telling)
    causes = sorted({sign.cause for sign in telling})
    told = [{**asdict(sign), "since": utc(standing.since_us[sign.key])} for sign in telling[:SIGNS_TOLD_MAX]]
    data = {
        "model": model,
        "versions": sorted({sign.version for sign in telling}, key=int, reverse=True),
        "causes": causes,
        "why": _why(telling, settings),
        "signs": told,
        "signs_count": len(telling),
        "asked_before": None if asked_us is None else utc(asked_us),
        "not_again_before": utc(now_us + int(settings.cool_down_s * 1e6)),
    }
    return Event(Kind.RETRAIN_REQUESTED, event_id("retrain", model, asked_us, first_us), model, now_us, data)


def _lasts(sign: Sign, standing: Standing, settings: Settings, now_us: int) -> bool:
    after_s = settings.after_s if sign.cause is Cause.DRIFT else 0.0
    return now_us - standing.since_us[sign.key] >= after_s * 1e6


def _why(signs: Iterable[Sign], settings: Settings) -> str:
    whats: dict[Cause, set[str]] = {}
    for sign in signs:
        whats.setdefault(sign.cause, set()).add(f"{sign.what} of version {sign.version}")
    words = {
        Cause.DRIFT: f"drifting for {settings.after_s:g} s and more",
        Cause.QUALITY: "quality is lost",
    }
    return "; ".join(f"{words[cause]}: {', '.join(sorted(what)[:5])}" for cause, what in whats.items())


class Retraining:
    """How all models stand, kept in a file. For one thread.

    Parameters
    ----------
    folder : Path
        A private folder.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._path = folder / FILE
        self._standings = self._read()

    def look(
        self,
        signs: Mapping[Cause, Iterable[Sign]],
        answering: Mapping[str, Collection[str]],
        now_us: int,
    ) -> list[Event]:
        """Return the requests that are to be made now; `made` is to be told of each that was.

        Parameters
        ----------
        signs : mapping
            All that are there now, by cause; of a cause that is absent it is not known yet.
        answering : mapping
            By model the versions that answer requests: what is amiss with others harms nobody.
        """
        by_model: dict[str, dict[str, Sign]] = {}
        for sign in islice(chain(*signs.values()), SIGNS_MAX):
            if sign.version in answering.get(sign.model, ()):
                by_model.setdefault(sign.model, {})[sign.key] = sign
        before, self._standings = self._standings, {}
        requests = []
        for model in before.keys() | by_model.keys():
            there = list(by_model.get(model, {}).values())
            standing = seen(before.get(model, Standing()), there, signs.keys(), now_us)
            if standing != Standing():
                self._standings[model] = standing
            if self._settings.enabled and (request := due(model, standing, there, self._settings, now_us)):
                requests.append(request)
        if self._standings != before:
            self._write()
        return requests

    def made(self, request: Event) -> None:
        """Note that training was asked for, now or before we were killed."""
        standing = self._standings.get(request.subject, Standing())
        if standing.asked_us is None or standing.asked_us < request.at_us:
            self._standings[request.subject] = Standing(standing.since_us, request.at_us)
            self._write()

    def _read(self) -> dict[str, Standing]:
        try:
            found = json.loads(read_bytes(self._path, FILE_BYTES_MAX))
            return {model: Standing(**standing) for model, standing in found.items()}
        except FileNotFoundError:
            return {}
        except (NotPrivate, OSError, ValueError, TypeError, AttributeError) as error:
            log.error("event=retraining_not_read file=%s reason=%r", self._path, str(error))
            return {}

    def _write(self) -> None:
        try:
            content = {model: asdict(standing) for model, standing in self._standings.items()}
            replace_durably(self._path, json.dumps(content))
        except OSError as error:
            log.error("event=retraining_not_written file=%s reason=%r", self._path, str(error))
