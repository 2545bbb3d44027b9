"""What does a replica tell the control of what it counted, and what is it told to count?"""

from __future__ import annotations

import logging
import secrets
from time import monotonic_ns
from typing import TYPE_CHECKING

from serving.evidence.evidence import Evidence, Measure
from serving.evidence.page import Arm
from serving.evidence.terms import Terms

if TYPE_CHECKING:
    from serving.control.telling import Line, Said

TOLD_TOGETHER = 64
"""Pages in one message, which must not get too long."""
TERMS_NS = 10_000_000_000
"""How long after a hello the control may take to say all terms: those that it did not say are over then."""

log = logging.getLogger("turnout.evidence")


class Teller:
    """A link's part that is about evidence. On the engine's event loop."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._source = secrets.token_hex(8)
        """As no other process is called: a replica's name comes again where the gateway is one process."""
        self._told: dict[Arm, int] = {}
        self._terms: dict[str, Terms] = {}
        self._said: set[str] = set()
        self._begun_ns = 0

    def begin(self) -> None:
        """Note that whoever listens now was told nothing, and has said nothing."""
        self._told = {}
        self._said = set()
        self._begun_ns = monotonic_ns()

    async def tell(self, line: Line) -> None:
        """Say what was counted since it was told the last time."""
        if self._begun_ns and monotonic_ns() - self._begun_ns > TERMS_NS:
            self._begun_ns = 0
            self._agree({model: each for model, each in self._terms.items() if model in self._said})
        self._evidence.flush()
        news = self._evidence.book.news(self._told)
        for at in range(0, len(news), TOLD_TOGETHER):
            line.say("evidence", source=self._source, told=news[at : at + TOLD_TOGETHER])

    async def hear(self, line: Line, said: Said) -> None:
        """Do what the control says, if it is about evidence."""
        match said:
            case {"say": "terms", "model": model}:
                self._said.add(model)
                self._agree({**self._terms, model: Terms.from_json(said)})
            case {"say": "measure", "task": task, "model": model, "version": version, **rest}:
                measure = self._measure(model, version, ever=bool(rest.get("ever")))
                durations = measure.durations.to_json()
                line.say("measured", task=task, durations=durations, confidences=measure.confidences)

    def close(self) -> None:
        """Tell nothing any more."""

    def _agree(self, terms: dict[str, Terms]) -> None:
        self._terms = {model: each for model, each in terms.items() if each.versions}
        self._evidence.agree(self._terms.values())

    def _measure(self, model: str, version: str, *, ever: bool) -> Measure:
        try:
            return self._evidence.measure(model, version, ever=ever)
        except LookupError as error:
            log.info("event=not_measured reason=%r", str(error))
            return Measure()
