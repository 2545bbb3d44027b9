"""What is asked, so that no two requests are alike, and what does an answer say of itself?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""float32[rows, features]."""

MODEL, INPUT = "digits", "image"
STEP = 2.0**-20
"""What sets two requests with the same row apart, too little to change an answer."""
LAP_PIXEL, ASKER_PIXEL = 0, 32
"""Pixels that are 0 in all rows, so that a float32 holds what is added there."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request: an id that no other has, and a row of values that no other has, (1, features)."""

    id: str
    row: Rows


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer said: who answered, by which revision of the routes, and what was wrong with it."""

    version: str = ""
    revision: int | None = None
    error: str = ""


def rows_of(demo: Path) -> Rows:
    """Return all rows of the demo's digits."""
    with np.load(demo / "rows" / "digits.npz") as arrays:
        rows: Rows = arrays[INPUT].astype(np.float32)
    return rows


def questions(rows: Rows, asker: int) -> Iterator[Question]:
    """Return what one asker asks, for ever; another asker never asks the same."""
    order = np.random.default_rng(asker).permutation(len(rows))
    for count in range(2**62):
        row = rows[order[count % len(rows)]].copy()
        row[LAP_PIXEL] += np.float32(STEP * (1 + count // len(rows)))
        row[ASKER_PIXEL] += np.float32(STEP * asker)
        yield Question(f"{asker}-{count}", row[np.newaxis])


def as_json(question: Question) -> bytes:
    """Return a request with its values in JSON."""
    row = question.row
    tensor = {"name": INPUT, "datatype": "FP32", "shape": row.shape, "data": row.ravel().tolist()}
    return json.dumps({"id": question.id, "inputs": [tensor]}).encode()


def told_by(route: str | None, version: str | None, id_: str | None, question: Question) -> Told:
    """Read an answer of status 200.

    Parameters
    ----------
    route : str, optional
        Its `turnout-route`: version, revision and reason.
    version, id_ : str, optional
        What its document names.
    """
    routed, _, rest = (route or "").partition(";")
    number = rest.partition(";")[0]
    if not number.isdecimal():
        return Told(version or "", None, f"expected VERSION;REVISION;REASON as its route, got {route!r}")
    if routed != version:
        return Told(routed, int(number), f"routed to {routed!r} and answered by {version!r}")
    if id_ != question.id:
        return Told(routed, int(number), f"asked {question.id!r} and was answered {id_!r}")
    return Told(routed, int(number))


def told_by_http(
    status: int, route: str | None, body: bytes, head_length: str | None, question: Question
) -> Told:
    """Read an HTTP answer; `head_length` is how much of the body is JSON, None if all is."""
    if status != 200:
        return Told(error=f"status {status}" if status else "no answer")
    try:
        document: dict[str, Any] = orjson.loads(body[: int(head_length)] if head_length else body)
        return told_by(route, document.get("model_version"), document.get("id"), question)
    except (ValueError, AttributeError) as error:
        return Told(error=f"not an answer in JSON: {error}")
