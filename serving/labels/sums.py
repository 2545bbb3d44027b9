"""What have all replicas counted together, those that are gone included?

Each tells what it counted since it began, under a name that no other process ever has; so what is told again,
late or twice changes nothing. What one counted that is long gone is added to what all such ones did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from serving.labels import pairs
from serving.labels.pairs import Between, Pairs
from serving.labels.quality import Quality, Seen
from serving.labels.reading import Key, VersionLabels
from serving.shadow.comparison import total

GONE_S = 600.0
"""How long a replica may be away before it cannot come back: then nothing of it is told apart any more."""
SOURCES_MAX = 64
"""Of which it is; beyond it those go first that are away longest."""
ENDED_MAX = 1024
"""Names of those that were added up, to whom nobody listens any more."""
VERSIONS_MAX = 1024
"""Versions, and pairs of them, of which the counts of replicas that are gone are kept."""


Told = tuple[Key, Mapping[str, Any], Mapping[str, Any] | None]
"""What `Seen` and `Quality` are made of, None for what did not change."""


@dataclass(slots=True)
class Source:
    """What one process counted.

    Attributes
    ----------
    replica : str
        What it is called; another process may come to be called so.
    away_s : float
        Since when it is not connected; 0 while it is.
    """

    replica: str = ""
    away_s: float = 0.0
    seen: dict[Key, Seen] = field(default_factory=dict)
    quality: dict[Key, Quality] = field(default_factory=dict)
    pairs: dict[Between, Pairs] = field(default_factory=dict)

    def told(self, told: Iterable[Told], compared: Iterable[list[Any]]) -> bool:
        """Take over what it tells, and say whether labels counted."""
        counted = False
        for key, seen, quality in told:
            self.seen[key] = Seen(**seen)
            if quality is not None:
                self.quality[key] = Quality.from_json(quality)
                counted = True
        self.pairs |= dict(pairs.heard(compared))
        return counted

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "replica": self.replica,
            "seen": [[*key, asdict(each)] for key, each in self.seen.items()],
            "quality": [[*key, each.to_json()] for key, each in self.quality.items()],
            "pairs": pairs.told(self.pairs),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Source:
        """Read what `to_json` wrote."""
        return cls(
            document["replica"],
            0.0,
            {(m, v, role): Seen(**each) for m, v, role, each in document["seen"]},
            {(m, v, role): Quality.from_json(each) for m, v, role, each in document["quality"]},
            dict(pairs.heard(document["pairs"])),
        )


class Sums:
    """The counts of all processes."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._gone = Source()
        self._ended: dict[str, None] = {}
        self._names: dict[tuple[str, str], tuple[str, ...]] = {}
        self.changes = 0
        """Goes up whenever labels counted."""

    def __repr__(self) -> str:
        return f"<Sums of {len(self._sources)} processes, {len(self._ended)} more that are gone>"

    def note(self, source: str, replica: str, told: Iterable[Told], compared: Iterable[list[Any]]) -> None:
        """Take over what a process tells; `serving.labels.teller` says how."""
        if source not in self._ended:
            of = self._sources.setdefault(source, Source(replica))
            self.changes += of.told(told, compared)

    def name(self, model: str, version: str, names: Iterable[str]) -> None:
        """Note what the classes of a version are called."""
        self._names.pop((model, version), None)
        self._names[model, version] = tuple(names)
        if len(self._names) > VERSIONS_MAX:
            del self._names[next(iter(self._names))]

    def names(self, model: str, version: str) -> tuple[str, ...]:
        """Return what they are called; perhaps nothing."""
        return self._names.get((model, version), ())

    def settle(self, connected: Mapping[str, str], now_s: float) -> None:
        """Add up what those counted that are gone.

        Parameters
        ----------
        connected : mapping
            By the name of a replica that is connected, the process that it is as far as that is known.
        """
        for name, source in self._sources.items():
            there = connected.get(source.replica)
            if there is not None and there in ("", name):
                source.away_s = 0.0
            elif not source.away_s:
                source.away_s = now_s
        away = [name for name, each in self._sources.items() if each.away_s]
        away.sort(key=lambda name: self._sources[name].away_s)
        over = len(self._sources) - SOURCES_MAX
        for at, name in enumerate(away):
            if at < over or now_s - self._sources[name].away_s > GONE_S:
                self._end(name)

    def _end(self, name: str) -> None:
        source, gone = self._sources.pop(name), self._gone
        gone.seen = _most(total(gone.seen, source.seen), lambda each: each.answered)
        gone.quality = _most(total(gone.quality, source.quality), lambda each: each.labelled)
        gone.pairs = _most(total(gone.pairs, source.pairs), lambda each: each.all)
        self._ended[name] = None
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def models(self) -> set[str]:
        """Return of which models something is known."""
        return {
            key[0] for each in (self._gone, *self._sources.values()) for key in (*each.seen, *each.quality)
        }

    def versions(self, model: str) -> dict[tuple[str, str], VersionLabels]:
        """Return what is known of the versions of a model, by version and role."""
        seen: dict[Key, Seen] = {}
        quality: dict[Key, Quality] = {}
        for source in (self._gone, *self._sources.values()):
            seen = total(seen, {key: each for key, each in source.seen.items() if key[0] == model})
            quality = total(quality, {key: each for key, each in source.quality.items() if key[0] == model})
        return {
            (key[1], key[2]): VersionLabels(seen.get(key, Seen()), quality.get(key, Quality()))
            for key in {**seen, **quality}
        }

    def pairs(self, model: str) -> dict[Between, Pairs]:
        """Return how the shadows of a model did beside what answered, by epoch and versions."""
        found: dict[Between, Pairs] = {}
        for source in (self._gone, *self._sources.values()):
            found = total(found, {key: each for key, each in source.pairs.items() if key.model == model})
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "sources": {name: each.to_json() for name, each in self._sources.items()},
            "gone": self._gone.to_json(),
            "ended": list(self._ended),
            "names": [[*named, list(each)] for named, each in self._names.items()],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Sums:
        """Read what `to_json` wrote; `ValueError`, `TypeError` or `KeyError` if it is another's."""
        made = cls()
        made._sources = {name: Source.from_json(each) for name, each in document["sources"].items()}
        made._gone = Source.from_json(document["gone"])
        made._ended = dict.fromkeys(document["ended"])
        made._names = {(model, version): tuple(each) for model, version, each in document["names"]}
        return made


def _most(counts: dict[Any, Any], size: Any) -> dict[Any, Any]:
    """Return those of which most was counted, as many as are kept."""
    if len(counts) <= VERSIONS_MAX:
        return counts
    return dict(sorted(counts.items(), key=lambda item: size(item[1]), reverse=True)[:VERSIONS_MAX])
