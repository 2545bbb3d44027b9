"""What can be asked for, or happen, so that a journal has another entry?"""

from __future__ import annotations

from enum import StrEnum


class Verb(StrEnum):
    """What was asked for."""

    ADOPT = "adopt"
    """The first version of a model was found; it answers."""
    TAKE = "take"
    """A newer version was found, and configuration says that it takes over."""
    SPLIT = "split"
    SHADOW = "shadow"
    STICK = "stick"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PIN = "pin"
    UNPIN = "unpin"
    ALIAS = "alias"
    ROLLOUT = "rollout"
    """A rollout went on, and traffic stays as it is."""
    REMOVE = "remove"
