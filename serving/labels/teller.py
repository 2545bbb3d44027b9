"""What does a replica tell the control of labels, and what does it do with those that it is told of?

To the control goes ``quality {source, told, pairs, names}``, cumulative for this source, which no other ever
was: `told` has ``[model, version, role, seen, quality]`` of what changed, with null for a quality that did
not, `pairs` what `serving.labels.pairs.told` writes, and `names` ``[model, version, names of classes]``. And
``labelled {task, model, outcomes, losses, distances}``: `outcomes` has a letter for each label (`LETTERS`),
the other two ``[version, role, [[label, loss], ...]]`` of those that joined; or, if nothing came of it,
``labelled {task, model, fault}``. What labels counted is told before what came of them, so that nothing is
acknowledged that ends with the replica.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from serving.labels.joining import Joined, Loss, Outcome, Remark
from serving.labels.label import Label
from serving.labels.pairs import Between, Pairs, told
from serving.labels.quality import Quality, Seen
from serving.labels.reading import Key, LossReading
from serving.labels.recall import Named, Recall

if TYPE_CHECKING:
    from serving.control.telling import Line, Said

LETTERS = {
    "j": Outcome.JOINED,
    "r": Outcome.REPEATED,
    "m": Outcome.MISFIT,
    "u": Outcome.UNMATCHED,
}
TOLD_TOGETHER = 16
"""Versions in one message, which must not get too long."""
REMARKS_TOGETHER = 200
"""Labels that count as evidence in one go, at 1 to 2 µs each on the event loop."""
_LETTER = {outcome: letter for letter, outcome in LETTERS.items()}

log = logging.getLogger("turnout.labels")


class Teller:
    """A link's part that is about labels. On the engine's event loop.

    Attributes
    ----------
    losses : mapping of Key to LossReading
        What the control said last of how often versions are wrong.
    """

    def __init__(self, recall: Recall) -> None:
        self._recall = recall
        self._source = secrets.token_hex(8)
        self._seen: dict[Key, Seen] = {}
        self._quality: dict[Key, Quality] = {}
        self._pairs: dict[Between, Pairs] = {}
        self._names: dict[Named, tuple[str, ...]] = {}
        self.losses: Mapping[Key, LossReading] = {}

    def __repr__(self) -> str:
        return f"<Teller {self._source} of {self._recall!r}>"

    def begin(self) -> None:
        """Note that whoever listens now was told nothing."""
        self._seen, self._quality, self._pairs, self._names = {}, {}, {}, {}

    def close(self) -> None:
        """Tell nothing any more."""

    async def tell(self, line: Line) -> None:
        """Say what was counted since it was told the last time."""
        if self._recall.enabled:
            for message in self._messages():
                line.send(message)

    async def hear(self, line: Line, said: Said) -> None:
        """Do what the control says, if it is about labels."""
        match said:
            case {"say": "labels", "task": task, "model": model, "labels": labels}:
                await self._label(line, task, model, [Label(*each) for each in labels])
            case {"say": "losses", "told": told}:
                self.losses = {(m, v, role): LossReading(*rest) for m, v, role, *rest in told}

    async def _label(self, line: Line, task: int, model: str, labels: Sequence[Label]) -> None:
        try:
            joined = await self._recall.join(model, labels)
            answer = _labelled(task, model, joined)
        except Exception as error:  # The control waits for an answer, whatever it is.
            log.exception("event=not_labelled model=%s", model)
            line.say("labelled", task=task, model=model, fault=str(error) or type(error).__name__)
            return
        await _remark(joined.remarks)
        await self.tell(line)
        line.send(answer)

    def _messages(self) -> list[bytes]:
        """Return what has changed, and note that it is told."""
        news, rest = self._news(), {"pairs": self._news_of_pairs(), "names": self._news_of_names()}
        if not (news or any(rest.values())):
            return []
        parts = [news[at : at + TOLD_TOGETHER] for at in range(0, len(news), TOLD_TOGETHER)] or [[]]
        nothing: dict[str, list[Any]] = {name: [] for name in rest}
        messages = [
            {"say": "quality", "source": self._source, "told": part, **(nothing if at else rest)}
            for at, part in enumerate(parts)
        ]
        return [orjson.dumps(message) + b"\n" for message in messages]

    def _news(self) -> list[list[Any]]:
        seen, quality = self._recall.seen(), dict(self._recall.quality)
        news = []
        for key in seen.keys() | quality.keys():
            now, labelled = seen.get(key, Seen()), quality.get(key)
            changed = labelled is not None and labelled is not self._quality.get(key)
            if changed or now != self._seen.get(key):
                news.append([*key, asdict(now), labelled.to_json() if labelled and changed else None])
        self._seen, self._quality = seen, quality
        return news

    def _news_of_pairs(self) -> list[list[Any]]:
        before, self._pairs = self._pairs, dict(self._recall.pairs)
        return told({key: each for key, each in self._pairs.items() if each is not before.get(key)})

    def _news_of_names(self) -> list[list[Any]]:
        before, self._names = self._names, self._recall.names()
        return [[*named, each] for named, each in self._names.items() if before.get(named) != each]


async def _remark(remarks: Sequence[Remark]) -> None:
    """Let labels count as evidence, some at a time: pages belong to the event loop."""
    for at in range(0, len(remarks), REMARKS_TOGETHER):
        for page, answered, said, slot in remarks[at : at + REMARKS_TOGETHER]:
            page.label(answered, said, slot)
        await asyncio.sleep(0)


def _labelled(task: int, model: str, joined: Joined) -> bytes:
    message = {
        "say": "labelled",
        "task": task,
        "model": model,
        "outcomes": "".join(map(_LETTER.__getitem__, joined.outcomes)),
        "losses": list(_losses(joined.losses)),
        "distances": list(_losses(joined.distances)),
    }
    return orjson.dumps(message) + b"\n"


def _losses(losses: Mapping[tuple[str, str], Sequence[Loss]]) -> Iterable[list[Any]]:
    for key, each in losses.items():
        yield [*key, [list(loss) for loss in each]]
