"""What does the repository index say of a version?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
