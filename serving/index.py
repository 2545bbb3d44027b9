"""What does the repository index say of a version?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

log = logging.getLogger("turnout.shelf")

UNLOADED = "unloaded"


class State(StrEnum):
    """A version's state in the repository index, in Triton's words."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Standing:
    """A line of the repository index."""

    state: State
    reason: str = ""


Index = dict[str, dict[str, Standing]]
"""By model and version; an empty version stands for the model as a whole."""


def note(index: Index, model: str, version: str, standing: Standing, *, serving: bool) -> None:
    """Put down how a version stands.

    One that is `serving` goes on serving: what became of its replacement is said beside that.
    """
    if serving and standing.state in (State.LOADING, State.UNAVAILABLE) and standing.reason != UNLOADED:
        standing = replace(standing, state=State.READY)
    lines, reason = index.setdefault(model, {}), standing.reason
    if reason not in ("", UNLOADED) and lines.get(version) != standing:
        log.error("model=%s version=%s event=unavailable reason=%r", model, version or "-", reason)
    lines[version] = standing


def forget(index: Index, known: Mapping[str, Iterable[str]]) -> None:
    """Drop all lines but those of versions that are `known`, by model."""
    for name, lines in list(index.items()):
        for version in set(lines) - set(known.get(name, ())):
            del lines[version]
        if not lines:
            del index[name]
