"""What is a line of the journal, and how does each vouch for all before it?

Lines are chained as in a Merkle-Damgård construction: an entry's hash covers its content and the hash of
the entry before it, so that whoever knows the last hash notices any change to the past.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from router.change import Change, Remove, SetAlias, SetRollout, SetRoute
from router.rollout import parse_rollout, rollout_document
from router.table_document import parse_route, route_document
from router.verb import Verb

GENESIS = "0" * 64
"""What the first entry has for the hash of the one before it."""
WORDS_MAX = 1000
"""Characters of `by` and of `why`."""


class BrokenChain(ValueError):
    """A journal that is not what was written; the message says from which entry on."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A change, who made it, when and why.

    `at_us` is in microseconds of Unix time. `term` is the writer's: each control that starts takes the
    next one.
    """

    revision: int
    term: int
    at_us: int
    by: str
    why: str
    change: Change
    previous_hash: str

    def __post_init__(self) -> None:
        for name in ("by", "why"):
            words = getattr(self, name)
            if not words.strip() or len(words) > WORDS_MAX:
                raise ValueError(f"`{name}` has to have 1 to {WORDS_MAX} characters, got {len(words)}")

    @property
    def hash(self) -> str:
        """Return the SHA-256 over this entry and the hash before it, in hexadecimal."""
        return sha256(f"{self.previous_hash}\n{self.text}".encode()).hexdigest()

    @property
    def text(self) -> str:
        """Return everything but the hashes, as JSON that is the same for equal entries."""
        return canonical(self.document())

    def document(self) -> dict[str, Any]:
        """Return everything but the hashes, as plain values."""
        return {
            "revision": self.revision,
            "term": self.term,
            "at_us": self.at_us,
            "by": self.by,
            "why": self.why,
            "change": change_document(self.change),
        }


def parse(text: str, previous_hash: str) -> Entry:
    """Read what `Entry.text` wrote.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        document = json.loads(text)
        change = parse_change(document.pop("change"))
        entry = Entry(change=change, previous_hash=previous_hash, **document)
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"no entry: {error!r}") from None
    if entry.text != text:
        raise ValueError("another spelling than that of an entry")
    return entry


def check_chain(entries: Iterable[tuple[Entry, str]]) -> tuple[int, str]:
    """Go over (entry, the hash that is stored with it) in order; return the last revision and hash.

    Raises
    ------
    BrokenChain
        At the first entry that does not follow from the one before it.
    """
    revision, term, before = 0, 0, GENESIS
    for entry, stored in entries:
        if entry.revision != revision + 1:
            raise BrokenChain(
                f"revision {revision + 1} is missing: revision {entry.revision} follows {revision}"
            )
        if entry.term < term:
            raise BrokenChain(f"revision {entry.revision} has term {entry.term}, after term {term}")
        if entry.previous_hash != before or entry.hash != stored:
            raise BrokenChain(f"revision {entry.revision} is not what was written: its hash does not fit")
        revision, term, before = entry.revision, entry.term, stored
    return revision, before


def canonical(document: Mapping[str, Any]) -> str:
    """Write JSON with one spelling."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def change_document(change: Change) -> dict[str, Any]:
    """Return a change as plain values."""
    match change:
        case SetRoute(verb=verb, model=model, route=route):
            return {"set": "route", "verb": verb, "model": model, "route": route_document(route)}
        case SetAlias(model=model, alias=alias, version=version):
            return {"set": "alias", "model": model, "alias": alias, "version": version}
        case SetRollout(verb=verb, model=model, rollout=rollout, route=route):
            return {
                "set": "rollout",
                "verb": verb,
                "model": model,
                "rollout": rollout_document(rollout),
                "route": None if route is None else route_document(route),
            }
        case Remove(model=model):
            return {"set": "nothing", "model": model}


def parse_change(document: Mapping[str, Any]) -> Change:
    """Read what `change_document` made."""
    match document:
        case {"set": "route", "verb": verb, "model": model, "route": route}:
            return SetRoute(Verb(verb), model, parse_route(route))
        case {"set": "alias", "model": model, "alias": alias, "version": version}:
            return SetAlias(model, alias, version)
        case {"set": "rollout", "verb": verb, "model": model, "rollout": rollout, "route": route}:
            parsed = None if route is None else parse_route(route)
            return SetRollout(Verb(verb), model, parse_rollout(rollout), parsed)
        case {"set": "nothing", "model": model}:
            return Remove(model)
        case _:
            raise ValueError(f"a change of no known kind: {document.get('set')!r}")
