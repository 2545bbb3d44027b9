"""What does the control know of one stream, a tensor of a version in one role, over all replicas?"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.detect import REFERENCE_MIN
from serving.config import Drift as Settings
from serving.drift.case import Case
from serving.drift.judge import LN10, Bar, Finding, Judge
from serving.drift.profile import Reference
from serving.drift.reading import Key, StreamReading
from serving.drift.report import VerdictWord
from serving.drift.sources import Panels, Sources, merged
from serving.drift.tally import Apart
from serving.drift.view import Look

log = logging.getLogger("turnout.drift")

FEATURES_TOLD_MAX = 64
"""Features up to which replicas are told of each, PSI and evidence, for their metrics."""
FORMAT = 1
"""Of snapshots; those of another are not gone on from."""


class Stream:
    """One stream: what was counted, and, where there is a reference, what that means.

    Attributes
    ----------
    key : Key
    profile : str
        The hash of the profile that counts; empty for none.
    began_us, heard_us : int
        When it was first told of, and when something new was told last.
    """

    def __init__(
        self, key: Key, profile: str, reference: Reference | None, settings: Settings, now_us: int
    ) -> None:
        self.key = key
        self.profile = profile
        self.began_us = self.heard_us = now_us
        self.look: Look | None = None
        self.sources = Sources()
        self.reference = reference
        self.cases: dict[str, Case] = {}
        if reference is not None:
            together, windows = reference.features, (settings.window_s, settings.half_life_s)
            self.cases = {name: Case(each, together, *windows) for name, each in reference.panels.items()}
        self.judge = Judge(self.cases) if self.cases else None
        self._new: Panels = {}

    def __repr__(self) -> str:
        model, version, role, tensor = self.key
        return f"<Stream {model}@{version} {role} {tensor!r}: {self.sources.rows} rows, {self.word}>"

    @property
    def word(self) -> VerdictWord:
        """What is said of it."""
        if self.judge is None or self.reference is None:
            return "no profile"
        if self.judge.drifted:
            return "drift"
        if self.reference.n < REFERENCE_MIN:
            return "thin profile"
        return "no drift" if self.sources.rows else "no rows"

    def is_judged(self, now_us: int, horizon_s: float) -> bool:
        """Say whether it can raise an alarm, having had rows within the horizon."""
        judged = self.reference is not None and self.reference.n >= REFERENCE_MIN and self.sources.rows > 0
        return judged and now_us - self.heard_us <= horizon_s * 1e6

    def take(self, replica: str, reading: StreamReading, now_us: int) -> None:
        """Take over what a replica tells.

        Raises
        ------
        Apart
            If it cannot have been counted by this reference.
        """
        for name, case in self.cases.items():
            if name not in reading.panels or not case.fits(reading.panels[name]):
                raise Apart(f"panel {name!r} of {reading.look} is counted by another reference")
        self.look = reading.look
        new = self.sources.take(replica, reading)
        if new:
            self.heard_us = now_us
        if self.cases:
            self._new = merged(self._new, new)

    def evaluate(self, bar: Bar, now_us: int) -> Finding | None:
        """Judge anew if there is anything new."""
        if self.judge is None or not self._new:
            return None
        new, self._new = self._new, {}
        for name, tally in new.items():
            self.cases[name].take(tally, now_us / 1e6)
        return self.judge.decide(bar, now_us)

    def verdict(self) -> dict[str, Any]:
        """Return what replicas are told for their metrics, as plain values; there is a reference."""
        assert self.judge is not None
        model, version, role, tensor = self.key
        psi = np.round(np.nan_to_num(self.judge.psi()), 4)
        evidence = np.round(np.maximum(self.judge.log_e / LN10, 0.0), 4)
        names = [name for case in self.cases.values() for name in case.features]
        features = zip(names, psi.tolist(), evidence.tolist(), strict=True)
        return {
            "model": model,
            "version": version,
            "role": role,
            "tensor": tensor,
            "detected": self.judge.drifted,
            "psi_max": float(psi.max()),
            "evidence": round(self.judge.evidence, 4),
            "features_drifted": int(self.judge.named.sum()),
            "features": {name: rest for name, *rest in features} if len(names) <= FEATURES_TOLD_MAX else {},
            "events": {str(turn): count for turn, count in self.judge.turns.items()},
        }

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be evaluated."""
        return bool(self._new)

    def tidy(self, connected: Collection[str]) -> None:
        """Add up what is over."""
        self.sources.tidy(connected)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return all that `restored` goes on from. Everything told must be evaluated before."""
        assert not self._new
        told = {
            "format": FORMAT,
            "key": self.key,
            "profile": self.profile,
            "began_us": self.began_us,
            "heard_us": self.heard_us,
            "look": self.look.to_json() if self.look is not None else None,
            "sources": self.sources.to_json(),
        }
        arrays = {"told": np.frombuffer(json.dumps(told).encode(), np.uint8)}
        parts: dict[str, Mapping[str, NDArray[Any]]] = {
            f"case.{name}": case.arrays() for name, case in self.cases.items()
        }
        if self.judge is not None:
            parts["judge"] = self.judge.arrays()
        return arrays | {
            f"{part}/{name}": each for part, many in parts.items() for name, each in many.items()
        }


def told_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what a snapshot says of itself: key, profile, and all that is no array."""
    told: dict[str, Any] = json.loads(arrays["told"].tobytes())
    if told["format"] != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {told['format']}")
    return told


def restored(arrays: Mapping[str, NDArray[Any]], reference: Reference | None, settings: Settings) -> Stream:
    """Return a snapshot's stream; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
    told = told_of(arrays)
    model, version, role, tensor = told["key"]
    stream = Stream((model, version, role, tensor), told["profile"], reference, settings, told["began_us"])
    stream.heard_us = told["heard_us"]
    stream.look = Look.from_json(told["look"]) if told["look"] is not None else None
    stream.sources = Sources.from_json(told["sources"])

    def part(begin: str) -> dict[str, NDArray[Any]]:
        return {name.removeprefix(begin): each for name, each in arrays.items() if name.startswith(begin)}

    for name, case in stream.cases.items():
        case.restore(part(f"case.{name}/"))
    if stream.judge is not None:
        stream.judge.restore(part("judge/"))
    return stream
