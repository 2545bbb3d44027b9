"""When are the rows there that somebody wants a profile to be made of?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serving.drift.flow import Flow
from serving.drift.flows import Flows
from serving.drift.process import DriftProcess

CAPTURES_MAX = 16
"""That are under way at once."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What became of it. Either there is a file for each tensor, or an error.

    `files` says of each tensor where its rows are, as they stood in the ring, and how they were looked at;
    `serving.drift.features.panels` goes on from there.
    """

    error: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capture:
    """One that is under way."""

    paths: dict[Path, Flow]
    captured: Callable[[Captured], None]

    def is_into(self, folder: str) -> bool:
        """Say whether it is what somebody wants to have there."""
        return any(path.parent == Path(folder) for path in self.paths)


class Freezer:
    """The captures of this replica."""

    def __init__(self, process: DriftProcess) -> None:
        self._process = process
        self._captures: list[Capture] = []

    def capture(
        self, flows: Sequence[Flow], rows: int, into: str, captured: Callable[[Captured], None]
    ) -> None:
        """Have the next rows of each stream written into a folder that there is; for 0 rows, stop that."""
        if not rows:
            self._stop(into)
            return
        for at, capture in enumerate(self._captures):
            if capture.is_into(into):  # A control that has just connected asks again.
                self._captures[at] = replace(capture, captured=captured)
                return
        if not flows:
            captured(Captured("the version is not counted here"))
            return
        if len(self._captures) >= CAPTURES_MAX:
            captured(Captured(f"{CAPTURES_MAX} captures are under way already; try again later"))
            return
        paths = {Path(into) / f"{flow.number}.npy": flow for flow in flows}
        self._captures.append(Capture(paths, captured))
        for path, flow in paths.items():
            self._process.capture(flow, rows, str(path))

    def _stop(self, into: str) -> None:
        for capture in list(self._captures):
            if capture.is_into(into):
                self._captures.remove(capture)
                for path, flow in capture.paths.items():
                    self._process.capture(flow, 0, str(path))

    def sweep(self, flows: Flows) -> None:
        """Tell of those that are whole, or never will be."""
        for capture in list(self._captures):
            missing = [flow for path, flow in capture.paths.items() if not path.exists()]
            if missing and all(flows.open([flow]) for flow in missing):
                continue
            self._captures.remove(capture)
            if missing:
                capture.captured(Captured("its streams ended before there were enough rows"))
                continue
            files = {
                flow.look.tensor: {"path": str(path), "look": flow.look.to_json()}
                for path, flow in capture.paths.items()
            }
            capture.captured(Captured(files=files))
