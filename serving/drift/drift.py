"""What does the control know about drift, of all models? It is told counts, judges them, and remembers.

A plain object for one thread at a time; `serving.control.inspection` gives it one. Time comes in as
arguments, in microseconds of Unix time.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from router.change import Refused
from serving.clock import utc
from serving.config import Drift as Settings
from serving.drift.events import Event, Events
from serving.drift.harvest import Harvest, Message, Terms
from serving.drift.judge import Bar, Finding
from serving.drift.profile import Profile
from serving.drift.reading import Key, StreamReading
from serving.drift.store import Store
from serving.drift.stream import Stream, restored, told_of
from serving.drift.view import Look
from serving.private import NotPrivate

log = logging.getLogger("turnout.drift")

SNAPSHOT_S = 60.0
STREAMS_MAX = 1024
"""Those that were not heard of for the longest time go first."""

Named = tuple[str, str]
"""Model and version."""
Told = Mapping[tuple[str, int], tuple[Key, Mapping[str, Any]]]
"""What replicas told last, as plain values, by replica and the stream's number."""


@dataclass(frozen=True, slots=True)
class Ripe:
    """A profile that can be made: it takes a while, and touches nothing that changes."""

    harvest: Harvest
    looks: Mapping[int, Look]
    digest: str
    categories_max: int

    def build(self, now_us: int) -> Profile:
        """Make it; a `ValueError` says that it cannot be made of these rows."""
        return self.harvest.build(self.looks, self.digest, self.categories_max, utc(now_us))


class Drift:
    """All streams, their profiles, and what became of them.

    Parameters
    ----------
    evaluate_s : float
        How often `evaluate` is called at most.

    Attributes
    ----------
    profiles : mapping of (model, version) to Profile
    digests : mapping of (model, version) to str
        Of the versions that are loaded, as far as replicas said.
    evaluated_us : int
    """

    def __init__(self, store: Store, settings: Settings, evaluate_s: float, now_us: int) -> None:
        self.settings = settings
        self._evaluate_s = evaluate_s
        self.store = store
        self.profiles: dict[Named, Profile] = self.store.profiles()
        self.digests: Mapping[Named, str] = {}
        self.events = Events(self.store.folder)
        self.evaluated_us = now_us
        self._streams: dict[Key, Stream] = {}
        self._dirty: set[Key] = set()
        self._saved_us = now_us
        self._not_understood: set[tuple[str, Key]] = set()
        self.harvests: dict[Named, Harvest] = {}
        self._restore()
        self._resume()

    def __repr__(self) -> str:
        return f"<Drift: {len(self._streams)} streams, {len(self.profiles)} profiles>"

    def streams(self, model: str) -> list[Stream]:
        """Return the streams of a model."""
        return [stream for key, stream in self._streams.items() if key[0] == model]

    def know(self, digests: Mapping[Named, str]) -> None:
        """Note which versions are loaded. Those that are no more stay known: they may be told of late."""
        self.digests = {**self.digests, **digests}

    def counting(self, model: str, version: str) -> Profile | None:
        """Return the profile that counts: one for the very file that is served."""
        profile = self.profiles.get((model, version))
        if profile is None or not self.is_of(profile, self.digests.get((model, version), "")):
            return None
        return profile

    def is_of(self, profile: Profile, digest: str) -> bool:
        """Say whether a profile is of a version's content, as far as both are known."""
        return not digest or not profile.digest or profile.digest == digest

    def note(self, told: Told, now_us: int) -> None:
        """Take over what replicas told; what is not understood, or counted otherwise, is left out."""
        for (replica, _), (key, document) in told.items():
            try:
                self._note(replica, key, StreamReading.from_json(document), now_us)
            except (ValueError, TypeError, KeyError, AssertionError) as error:
                if (replica, key) not in self._not_understood:
                    log.error(
                        "event=drift_not_understood replica=%s stream=%s reason=%r", replica, key, str(error)
                    )
                    self._not_understood.add((replica, key))

    def _note(self, replica: str, key: Key, reading: StreamReading, now_us: int) -> None:
        model, version, _, tensor = key
        profile = self.counting(model, version)
        expected = profile.hash if profile is not None else ""
        if reading.profile != expected:
            return  # It has yet to hear of a change of profiles.
        stream = self._streams.get(key)
        if stream is None or stream.profile != expected or not stream.sources.are_told:
            reference = profile.tensors.get(tensor) if profile is not None else None
            if reference is not None and set(reference.panels) != set(reading.panels):
                reference = None  # The replica could not look at the tensor as the profile does.
            stream = self._streams[key] = Stream(key, expected, reference, self.settings, now_us)
        stream.take(replica, reading, now_us)
        self._dirty.add(key)

    def evaluate(self, connected: Collection[str], now_us: int) -> list[Event]:
        """Judge all streams of which there is something new; return what happened."""
        self.evaluated_us = now_us
        judged = self._judged(now_us)
        happened = []
        for stream in [each for each in self._streams.values() if each.is_waiting]:
            try:
                finding = stream.evaluate(self._bar(judged[stream.key[0]]), now_us)
            except Exception:  # The others are none the worse for it.
                log.exception("event=drift_not_evaluated stream=%s", stream.key)
                continue
            if finding is not None:
                happened.append(self._happen(stream, finding, now_us))
        self._tidy(connected)
        self._forget()
        return happened

    def _tidy(self, connected: Collection[str]) -> None:
        """Add up what is over, also of streams that count nothing: their versions come and go, too."""
        for stream in self._streams.values():
            try:
                stream.tidy(connected)
            except Exception:  # The others are none the worse for it.
                log.exception("event=drift_not_tidied stream=%s", stream.key)

    def bar(self, model: str, now_us: int) -> Bar:
        """Return what an alarm of one of a model's streams takes: they share the model's false alarms."""
        return self._bar(self._judged(now_us)[model])

    def _bar(self, judged: int) -> Bar:
        settings = self.settings
        return Bar(
            settings.false_alarms / max(judged, 1), settings.horizon_s / self._evaluate_s, settings.psi_min
        )

    def _judged(self, now_us: int) -> Counter[str]:
        """Return how many streams of each model can raise an alarm."""
        horizon_s = self.settings.horizon_s
        return Counter(key[0] for key, each in self._streams.items() if each.is_judged(now_us, horizon_s))

    def _happen(self, stream: Stream, finding: Finding, now_us: int) -> Event:
        model, version, role, tensor = stream.key
        event: Event = {
            "at": utc(now_us),
            "event": str(finding.turn),
            "model": model,
            "version": version,
            "tensor": tensor,
            "role": role,
            "features": list(finding.features),
            "evidence": finding.evidence,
            "psi": finding.psi,
            "n": stream.sources.rows,
        }
        self.events.add(event)
        told = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("at", "event"))
        log.warning("event=drift_%s %s", finding.turn, told)
        return event

    def verdicts(self) -> list[dict[str, Any]]:
        """Return the verdict on each stream that has a reference, for the metrics of replicas."""
        return [each.verdict() for each in self._streams.values() if each.judge is not None]

    def put(self, profile: Profile, now_us: int) -> None:
        """Let a profile count from now on; the streams of its version begin anew."""
        self._keep({**self.profiles, (profile.model, profile.version): profile}, now_us)

    def drop(self, model: str, version: str, now_us: int) -> None:
        """Let no profile count for a version any more."""
        kept = {named: each for named, each in self.profiles.items() if named != (model, version)}
        self._keep(kept, now_us)

    def _keep(self, profiles: dict[Named, Profile], now_us: int) -> None:
        self.store.keep(profiles)
        self.profiles = profiles
        for key, stream in list(self._streams.items()):
            profile = self.counting(key[0], key[1])
            expected = profile.hash if profile is not None else ""
            if stream.profile != expected:
                self._remove(key)
                reference = profile.tensors.get(key[3]) if profile is not None else None
                begun = self._streams[key] = Stream(key, expected, reference, self.settings, now_us)
                begun.look = stream.look

    def freeze(self, terms: Terms) -> list[Message]:
        """Begin to make a profile of live requests; return what replicas are told.

        Raises
        ------
        Refused
            If the version is loaded nowhere, or the rows would take too much room.
        """
        if not self.settings.enabled:
            raise Refused("nothing is counted, because drift.enabled is false")
        looks = self._looks(terms.model, terms.version)
        if not looks and (terms.model, terms.version) not in self.digests:
            raise Refused(
                f"{terms.model}@{terms.version} is not loaded, so there are no rows to come: "
                f"turnout split {terms.model} {terms.version}=0% ..."
            )
        if fault := terms.too_much(looks):
            raise Refused(fault)
        before = self.end_harvest((terms.model, terms.version))
        harvest = self.harvests[terms.model, terms.version] = Harvest.begin(self.store.captures, terms)
        return [*before, harvest.ask()]

    def look_after_harvests(self, now_us: int) -> list[Message]:
        """See how far the profiles in the making are; return what replicas are told."""
        messages = []
        for (model, version), harvest in list(self.harvests.items()):
            looks = self._looks(model, version)
            if fault := harvest.terms.too_much(
                looks
            ):  # It was begun before anything was told of the version.
                log.error("event=not_frozen version=%s@%s reason=%r", model, version, fault)
                messages += self.end_harvest((model, version))
                continue
            counted = sum(each.sources.rows for each in self.streams(model) if each.key[1] == version)
            try:
                messages += harvest.look(looks, counted, now_us)
            except OSError as error:
                log.error("event=harvest_not_seen version=%s@%s reason=%r", model, version, str(error))
        return messages

    def ripe(self) -> list[Ripe]:
        """Return the profiles that can be made now, each once."""
        found = []
        for (model, version), harvest in self.harvests.items():
            if harvest.is_ripe and not harvest.is_taken:
                harvest.is_taken = True
                digest = self.digests.get((model, version), "")
                found.append(Ripe(harvest, self._looks(model, version), digest, self.settings.categories_max))
        return found

    def end_harvest(self, named: Named) -> list[Message]:
        """Make no profile of live requests any more; return what replicas are told."""
        harvest = self.harvests.pop(named, None)
        if harvest is None:
            return []
        shutil.rmtree(harvest.folder, ignore_errors=True)
        return [harvest.end()]

    def _looks(self, model: str, version: str) -> dict[int, Look]:
        """Return how the rows of a version are looked at, by the number of each stream of each replica."""
        streams = (each for each in self.streams(model) if each.key[1] == version)
        return {number: look for each in streams for number, look in each.sources.looks().items()}

    def _resume(self) -> None:
        for folder in sorted(self.store.captures.iterdir()):
            try:
                harvest = Harvest.resume(folder)
            except (ValueError, TypeError, KeyError, OSError, NotPrivate):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self.harvests[harvest.terms.model, harvest.terms.version] = harvest

    def save(self, now_us: int, *, at_once: bool = False) -> None:
        """Write down what changed since the last time, if that is long ago."""
        # A clock that is set back must not keep anything from being written.
        if not at_once and 0 <= now_us - self._saved_us < SNAPSHOT_S * 1e6:
            return
        self._saved_us = now_us
        for key in sorted(self._dirty):
            stream = self._streams.get(key)
            if stream is None or stream.is_waiting:
                continue
            try:
                self.store.write(key, stream.snapshot())
            except OSError as error:
                log.error("event=drift_not_saved stream=%s reason=%r", key, str(error))
                return
            self._dirty.discard(key)

    def _restore(self) -> None:
        for path, arrays in self.store.snapshots():
            try:
                stream = self._restored(arrays)
            except (ValueError, TypeError, KeyError, AssertionError) as error:
                log.error("event=drift_snapshot_not_read file=%s reason=%r", path, str(error))
                stream = None
            if stream is None:
                path.unlink(missing_ok=True)
            else:
                self._streams[stream.key] = stream
        if self._streams:
            log.info("event=drift_restored streams=%d", len(self._streams))

    def _restored(self, arrays: Mapping[str, Any]) -> Stream | None:
        """Return the stream of a snapshot; None if its profile counts no more."""
        told = told_of(arrays)
        model, version, _, tensor = told["key"]
        profile = self.profiles.get((model, version))
        if told["profile"] != (profile.hash if profile is not None else ""):
            return None
        has_cases = any(name.startswith("case.") for name in arrays)
        reference = profile.tensors.get(tensor) if profile is not None and has_cases else None
        return restored(arrays, reference, self.settings)

    def _forget(self) -> None:
        while len(self._streams) > STREAMS_MAX:
            key = min(self._streams, key=lambda each: self._streams[each].heard_us)
            log.warning("event=drift_stream_forgotten stream=%s", key)
            self._remove(key)

    def _remove(self, key: Key) -> None:
        del self._streams[key]
        self._dirty.discard(key)
        self.store.drop(key)
