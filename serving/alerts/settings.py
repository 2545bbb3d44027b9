"""What can be configured of who is told, and of when a model is to be trained anew?"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from serving.alerts.address import Allowed, mistake, parse_place, parse_url
from serving.alerts.event import USUAL, kinds
from serving.section import Section


class Receiver(Section):
    """Who is told of what happens to traffic, by HTTP."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    """What it is known by; how far it has been told is kept under it."""
    url: str
    events: tuple[str, ...] = USUAL
    """Which events it wants, or families of them, such as `rollout.*`."""
    secret_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parse_url(value)
        return value

    @field_validator("events")
    @classmethod
    def _check_events(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        kinds(value)
        return value


class Alerts(Section):
    """Who else is told of what happens, and where that may be."""

    receivers: tuple[Receiver, ...] = Field((), max_length=16)
    allow: tuple[str, ...] = ()
    """HOST:PORT of receivers; nothing is sent elsewhere."""
    allow_private: tuple[str, ...] = ()
    """Those whose names may lead to addresses that are not on the public internet."""
    allow_http: tuple[str, ...] = ()
    """Those beyond loopback that may be spoken to without encryption."""
    source: str = Field("/turnout", pattern=r"^[!-;=?-~]{1,256}$")
    """What events say that they come from."""
    secret_file: Path | None = None
    timeout_s: float = Field(5.0, ge=0.1, le=60)
    retry_s_min: float = Field(1.0, ge=0.01, le=3600)
    retry_s_max: float = Field(300.0, ge=0.01, le=86400)
    refusals_max: int = Field(5, ge=1, le=1000)
    """How often a receiver may say that it does not want an event before it is set aside."""
    body_bytes_max: int = Field(64 << 10, ge=32 << 10, le=1 << 20)
    queue_events_max: int = Field(1000, ge=1, le=100_000)
    """Events that wait which are in no journal."""
    queue_bytes_max: int = Field(4 << 20, ge=1 << 20, le=64 << 20)

    @field_validator("allow", "allow_private", "allow_http")
    @classmethod
    def _check_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(parse_place, value))

    @model_validator(mode="after")
    def _check(self) -> Alerts:
        allowed = Allowed(*map(frozenset, (self.allow, self.allow_private, self.allow_http)))
        for receiver in self.receivers:
            if fault := mistake(parse_url(receiver.url), allowed):
                raise ValueError(f"receivers {receiver.name}: {fault}")
        if len({each.name for each in self.receivers}) < len(self.receivers):
            raise ValueError("receivers: two have the same name")
        return self


class Retraining(Section):
    """When others are asked to train a model anew."""

    enabled: bool = True
    after_s: float = Field(3600.0, ge=0, le=1e7)
    """How long drift lasts before; loss of quality counts at once."""
    cool_down_s: float = Field(86400.0, ge=1, le=1e8)
    """How long it is not asked again for the same model."""
