"""Does the document of a verdict say what follows from what is in it? Judged again, from it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from router.rollout import Word
from serving.rollout.facts import FORMAT
from serving.rollout.judge import decide, e_of, shown


class InvalidVerdict(ValueError):
    """A document that is no verdict's, or one of another release. The message is for the caller."""


class Recomputed(NamedTuple):
    """What a document comes to. `log10_e` is of each metric that weighs evidence against the candidate."""

    word: Word
    message: str
    log10_e: dict[str, float]
    differences: tuple[str, ...]
    """Where the document says otherwise; empty if nowhere."""


def recompute(document: Mapping[str, Any]) -> Recomputed:
    """Judge again by what is in a document.

    Raises
    ------
    InvalidVerdict
        If there is nothing to judge by in it.
    """
    if document.get("format") != FORMAT:
        raise InvalidVerdict(f"expected a verdict of format {FORMAT}, got {document.get('format')!r}")
    try:
        decision = decide(dict(document))
        found = shown(dict(document), decision)
    except (KeyError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise InvalidVerdict(f"this is no whole verdict: {error!r}") from None
    again: dict[str, Any] = {"word": str(decision.word), "message": decision.message, "found": found}
    differences: list[str] = []
    for name, value in again.items():
        _compare(name, document.get(name), value, differences)
    return Recomputed(decision.word, decision.message, e_of(again), tuple(differences))


def _compare(where: str, said: Any, again: Any, differences: list[str]) -> None:
    """Note each value that is not the same."""
    match said, again:
        case dict(), dict():
            for name in sorted(said.keys() | again.keys()):
                _compare(f"{where}.{name}", said.get(name), again.get(name), differences)
        case list(), list() if len(said) == len(again):
            for at, (one, other) in enumerate(zip(said, again, strict=True)):
                _compare(f"{where}[{at}]", one, other, differences)
        case _ if said != again:
            differences.append(f"{where}: the document says {said!r}, and by what is in it, it is {again!r}")
