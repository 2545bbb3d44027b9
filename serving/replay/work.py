"""What is a replay, from inputs that were kept to its report?"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from serving.clock import utc
from serving.config import Config, Deciding
from serving.drift.profile import Profile
from serving.drift.profile_json import to_json
from serving.drift.view import look, matches
from serving.labels.decision import Undecided, decision
from serving.model import ModelSpec
from serving.replay import report
from serving.replay.block import Block
from serving.replay.parcel import Group, Parcel, Sorted, by_form
from serving.replay.process import Died, replayed
from serving.replay.truths import Told, table

log = logging.getLogger("turnout.replay")

SOFT = 0.75
"""Of the time that there is, the part after which no run begins any more, so that there is a report."""

Named = tuple[str, str]


class Work:
    """One replay, from inputs to its report. In a thread of its own."""

    def __init__(
        self,
        config: Config,
        replica: str,
        model: str,
        specs: Sequence[ModelSpec],
        blocks: Sequence[Block],
        profiles: Mapping[Named, Profile],
        truths: Sequence[Told],
        until_s: float,
    ) -> None:
        self._config, self._replica, self._model = config, replica, model
        self._specs, self._blocks = specs, blocks
        self._profiles, self._truths, self._until_s = profiles, truths, until_s

    def do(self, stop: int) -> report.Report:
        """Return the report; see `serving.replay.process.replayed` for what it raises."""
        began_s = time.monotonic()
        groups = by_form(self._blocks)
        given = [self._given(spec) for spec in self._specs]
        known = table(self._truths)
        inputs = [Group(each.whole, each.arrays, [*map(known.get, each.ids.tolist())]) for each in groups]
        made, faults = self._replayed(given, inputs, stop)
        return self._report(made, faults, groups, time.monotonic() - began_s)

    def _replayed(
        self, given: list[dict[str, Any]], groups: list[Group], stop: int
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Replay until there is a report, each time without a version that ended the process."""
        settings = self._config.replay
        faults: dict[str, str] = {}
        while given:
            document = {
                "versions": given,
                "psi_min": self._config.drift.psi_min,
                "memory_bytes_max": settings.memory_bytes_max,
                "soft_s": max(self._until_s - time.monotonic(), 0) * SOFT,
            }
            parcel = Parcel(document, groups)
            try:
                return replayed(parcel, settings.run_s_max, self._until_s, stop), faults
            except Died as died:
                version = given[died.at]["version"]
                log.warning("version=%s@%s event=replay_died reason=%r", self._model, version, died.reason)
                faults[version] = died.reason
                given = [each for each in given if each["version"] != version]
            finally:
                parcel.close()
        return {"rows": 0, "whole_runs": 0, "cut": True, "versions": [], "pairs": []}, faults

    def _given(self, spec: ModelSpec) -> dict[str, Any]:
        """Describe a version to the process; see `serving.replay.runner.Given`."""
        profile = self._profile(spec)
        return {
            "version": str(spec.artifact.version),
            "digest": spec.artifact.digest,
            "path": str(spec.artifact.path),
            "graph_level": spec.config.graph_level,
            "inputs": [(each.name, each.datatype.name, each.shape, each.optional) for each in spec.inputs],
            "outputs": [(each.name, each.datatype.name, each.shape, each.optional) for each in spec.outputs],
            "rows_max": spec.rows_max,
            "decision": self._decision(spec),
            "profile": to_json(profile) if profile is not None else None,
            "looks": self._looks(spec, profile) if profile is not None else [],
        }

    def _profile(self, spec: ModelSpec) -> Profile | None:
        found = self._profiles.get((spec.artifact.model, str(spec.artifact.version)))
        # One of other files says nothing about these.
        return found if found is not None and found.digest in {"", spec.artifact.digest} else None

    def _looks(self, spec: ModelSpec, profile: Profile) -> list[dict[str, Any]]:
        found = []
        sides: tuple[tuple[Literal["input", "output"], Any], ...]
        sides = (("input", spec.inputs), ("output", spec.outputs))
        for of, tensors in sides:
            for tensor in tensors:
                reference = profile.tensors.get(tensor.name)
                chosen = look(tensor, of, self._config.drift, spec.rows_max > 0, profile)
                if reference is not None and reference.of == of and chosen and matches(chosen, reference):
                    found.append(chosen.to_json())
        return found

    def _decision(self, spec: ModelSpec) -> dict[str, Any] | None:
        """Describe how the version decides, as where its quality is counted; None if it does not."""
        chosen = self._config.labels.models.get(self._model, Deciding())
        try:
            return asdict(decision(spec, chosen))
        except Undecided:
            return None

    def _report(
        self, made: dict[str, Any], faults: dict[str, str], groups: Sequence[Sorted], took_s: float
    ) -> report.Report:
        arrived_ns = np.concatenate([each.arrived_ns for each in groups])
        versions, often = np.unique(np.concatenate([each.versions for each in groups]), return_counts=True)
        ours_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        told = {each["version"]: each for each in made["versions"]}
        return {
            "model": self._model,
            "at": utc(time.time_ns() // 1000),
            "replica": self._replica,
            "rows": made["rows"],
            "whole_runs": made["whole_runs"],
            "cut": made["cut"],
            "took_s": took_s,
            "since": utc(ours_us + int(arrived_ns.min()) // 1000),
            "until": utc(ours_us + int(arrived_ns.max()) // 1000),
            "answered_by": {str(each): int(count) for each, count in zip(versions, often, strict=True)},
            "versions": [
                told.get(version) or report.unrun(version, spec.artifact.digest, faults[version])
                for spec in self._specs
                for version in [str(spec.artifact.version)]
            ],
            "pairs": made["pairs"],
        }
