"""Which rooms does a gateway's control have?"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from serving.config import Config
from serving.control.inspection import Inspection


class Rooms(NamedTuple):
    """One of each."""

    drift: Inspection


def open_rooms(config: Config, folder: Path) -> Rooms:
    """Open them in a control's private folder; `NotPrivate` or `OSError` if that cannot be."""
    return Rooms(Inspection(config.drift, folder))
