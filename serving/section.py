"""What is a table of the configuration?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the configuration; unknown settings are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
