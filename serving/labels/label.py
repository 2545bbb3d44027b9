"""What does a label say, and of which answer? As people send it, and as the control tells replicas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from serving.clock import parse_utc
from serving.labels.decision import CLASS_MAX

LABELS_MAX = 10_000
"""In one request."""
ID_CHARACTERS_MAX = 4096
NAME_CHARACTERS_MAX = 1024
ROW_MAX = (1 << 31) - 1
SCORE_MAX = 1e300
FIELDS = ("id", "label", "score", "row", "time")
ONLY_ROW = -1

Truth = int | str | float
"""A class by its number or its name, or a score."""


class BadLabel(ValueError):
    """A label that means nothing. The message says which, and what would."""


class Label(NamedTuple):
    """The truth about one row of a request.

    Attributes
    ----------
    id : str
        The request's.
    row : int
        Which of its rows, from 0; `ONLY_ROW` for a request of one.
    truth : Truth
    at_us : int
        When it became known, Unix time.
    """

    id: str
    row: int
    truth: Truth
    at_us: int


def labels_of(document: Any, now_us: int) -> list[Label]:
    """Read one label, or a list of them under ``labels``.

    Raises
    ------
    BadLabel
        If one of them means nothing: then none counts.
    """
    if not isinstance(document, dict):
        raise BadLabel(f"expected an object, got {_shown(document)}")
    if "labels" not in document:
        return [label_of(document, now_us)]
    if len(document) > 1:
        raise BadLabel("beside `labels` nothing else is expected; id, label and time go into each of them")
    listed = document["labels"]
    if not isinstance(listed, list):
        raise BadLabel(f"labels: expected a list, got {_shown(listed)}")
    if not 1 <= len(listed) <= LABELS_MAX:
        raise BadLabel(f"labels: expected 1 to {LABELS_MAX} of them, got {len(listed)}; send more in turn")
    return [label_of(each, now_us, f"labels[{at}]") for at, each in enumerate(listed)]


def label_of(document: Any, now_us: int, where: str = "") -> Label:
    """Read one label; without a time it became known now."""
    begin = f"{where}." if where else ""
    if not isinstance(document, dict):
        raise BadLabel(f"{where or 'label'}: expected an object, got {_shown(document)}")
    for name in document:
        if name not in FIELDS:
            near = get_close_matches(str(name)[:80], FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(FIELDS)}"
            raise BadLabel(f"{begin}{str(name)[:40]}: unknown field; {hint}")
    id_ = document.get("id")
    if not isinstance(id_, str) or not 0 < len(id_) <= ID_CHARACTERS_MAX:
        raise BadLabel(f"{begin}id: expected the id of a request, got {_shown(id_)}")
    row = document.get("row")
    if row is not None and (type(row) is not int or not 0 <= row <= ROW_MAX):
        raise BadLabel(f"{begin}row: expected a row of the request, counted from 0, got {_shown(row)}")
    at_us = _time(document.get("time"), now_us, begin)
    return Label(id_, ONLY_ROW if row is None else row, _truth(document, begin), at_us)


def _truth(document: Mapping[str, Any], begin: str) -> Truth:
    given = [name for name in ("label", "score") if document.get(name) is not None]
    if len(given) != 1:
        raise BadLabel(f"{begin}label: expected `label`, a class, or `score`, a number, and one of the two")
    truth = document[given[0]]
    if given == ["score"]:
        if type(truth) not in (int, float) or not math.isfinite(truth) or abs(truth) > SCORE_MAX:
            raise BadLabel(f"{begin}score: expected a finite number, got {_shown(truth)}")
        return float(truth)
    if isinstance(truth, bool):
        return int(truth)
    if isinstance(truth, int) and 0 <= truth <= CLASS_MAX:
        return truth
    if isinstance(truth, str) and 0 < len(truth) <= NAME_CHARACTERS_MAX:
        return truth
    raise BadLabel(
        f"{begin}label: expected a class by its number from 0 on, or by its name, got {_shown(truth)}; "
        "a number that is no class is a `score`"
    )


def _time(said: Any, now_us: int, begin: str) -> int:
    if said is None:
        return now_us
    if not isinstance(said, str):
        raise BadLabel(f"{begin}time: expected such as 2026-11-24T14:05:00Z, got {_shown(said)}")
    try:
        return parse_utc(said)
    except (ValueError, OverflowError) as error:
        raise BadLabel(f"{begin}time: {error}") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def told(labels: Sequence[Label]) -> list[list[Any]]:
    """Return labels as plain values, as a replica is told of them."""
    return [list(label) for label in labels]
