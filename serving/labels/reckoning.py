"""What is known of the answers of all versions, over all replicas and since ever? For one thread alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from router.table import newest_first
from serving.clock import utc
from serving.config import Labels as Settings
from serving.drift.events import Event
from serving.labels.joining import LIVE
from serving.labels.losses import Losses, Lost
from serving.labels.pairs import Between, Pairs
from serving.labels.reading import Key, VersionLabels
from serving.labels.store import Store
from serving.labels.sums import Sums, Told

SAVE_S = 10.0
"""How often all is written down where only answers were counted; where labels were it is at once."""

Compared = dict[tuple[Any, ...], list[Any]]

log = logging.getLogger("turnout.labels")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a model, for whoever judges it.

    Attributes
    ----------
    versions : mapping of (str, str) to VersionLabels
        By version and role.
    pairs : mapping of Between to Pairs
        How shadows did beside what answered the same requests.
    """

    versions: Mapping[tuple[str, str], VersionLabels] = field(default_factory=dict)
    pairs: Mapping[Between, Pairs] = field(default_factory=dict)

    def numbers(self) -> dict[str, dict[str, int]]:
        """Return by version the plain numbers of the answers that callers got."""
        return {
            version: {
                "answered": each.seen.answered,
                "labelled": each.quality.labelled,
                "wrong": each.quality.wrong,
            }
            for (version, role), each in self.versions.items()
            if role == LIVE
        }

    def compared(self, shadow: str, primary: str, since_epoch: int = 0) -> Pairs:
        """Return how a shadow did beside a version, in epochs from this one on."""
        found = [
            each
            for between, each in self.pairs.items()
            if (between.shadow, between.primary) == (shadow, primary) and between.epoch >= since_epoch
        ]
        return sum(found, Pairs())


@dataclass(slots=True)
class Look:
    """What there is to take in.

    Attributes
    ----------
    connected : mapping
        By the name of each replica the process that it is, as far as that is known.
    told : dict
        By process its replica's name, and the latest of each version and each pair of them.
    names : list
        Model, version and what its classes are called.
    """

    connected: Mapping[str, str]
    told: dict[str, tuple[str, dict[Key, Told], Compared]]
    names: list[tuple[str, str, list[str]]]


class Reckoning:
    """Counts, streams, and the files of both.

    Parameters
    ----------
    folder : Path
        The control's private folder; `NotPrivate` if what is in it is not.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._store = Store(folder)
        self._sums = Sums()
        self._losses = Losses(settings, self._store.folder)

    def __repr__(self) -> str:
        return f"<Reckoning: {self._sums!r}, {self._losses!r}>"

    def open(self) -> Mapping[Key, Mapping[str, Any]]:
        """Read what the last control left, and return how versions stand."""
        document = self._store.read()
        if document is not None:
            try:
                self._sums, streams = Sums.from_json(document["sums"]), document["streams"]
                self._losses.restore(streams)
            except (ValueError, TypeError, KeyError) as error:
                log.error("event=quality_not_understood file=%s reason=%r", self._store.path, str(error))
        return self._losses.documents()

    def take_in(self, look: Look) -> None:
        """Take over what replicas told."""
        for source, (replica, versions, compared) in look.told.items():
            try:
                self._sums.note(source, replica, versions.values(), compared.values())
            except (ValueError, TypeError, KeyError) as error:
                log.error("event=quality_not_understood replica=%s reason=%r", replica, str(error))
        for model, version, names in look.names:
            self._sums.name(model, version, names)
        self._sums.settle(look.connected, time.monotonic())

    def lose(
        self, model: str, losses: Sequence[Lost], now_us: int
    ) -> tuple[list[Event], Mapping[Key, Mapping[str, Any]]]:
        """Take in what labels said, in their order; return what happened, and how versions stand."""
        return self._losses.take(model, losses, now_us), self._losses.documents()

    def save(self, now_us: int, *, at_once: bool = False) -> bytes:
        """Write everything down if it is time, and return what replicas are told of it."""
        if self._store.due(self._sums.changes, now_us, SAVE_S, at_once=at_once):
            self._store.write({"sums": self._sums.to_json(), "streams": self._losses.to_json()})
        told = [[*key, *asdict(each).values()] for key, each in sorted(self._losses.readings().items())]
        return orjson.dumps({"say": "losses", "told": told}) + b"\n" if told else b""

    def standings(self) -> dict[str, Standing]:
        """Return what is known of each model."""
        return {
            model: Standing(self._sums.versions(model), self._sums.pairs(model))
            for model in self._sums.models()
        }

    def report(self, model: str, version: str, now_us: int) -> dict[str, Any]:
        """Return all about the quality of a model, or of one of its versions."""
        from serving.labels import report

        alpha, known = self._settings.false_alarms, self._sums.versions(model)
        return {
            "model": model,
            "at": utc(now_us),
            "enabled": self._settings.enabled,
            "alpha": alpha,
            "versions": [
                report.version_said(
                    each,
                    role,
                    known[each, role],
                    self._sums.names(model, each),
                    self._losses.document(model, each, role),
                    alpha,
                )
                for each in newest_first({of for of, _ in known})
                for role in sorted(role for of, role in known if of == each)
                if version in ("", each)
            ],
            "pairs": report.pairs_said(self._sums.pairs(model), version, alpha),
            "events": [each for each in self._losses.events.of(model) if version in ("", each["version"])],
        }
