"""How is a profile written as JSON and read back, by people who may have changed it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import numpy as np

from serving.drift.packing import pack, unpack
from serving.drift.profile import (
    CATEGORIES_MAX,
    EDGES_MAX,
    FEATURES_MAX,
    Alphabet,
    Edges,
    InvalidProfile,
    Panel,
    Profile,
    Reference,
)

FORMAT = "turnout profile 1"
NUMBERS = {"edges", "mean", "std", "low", "high"}
"""Arrays of float64; all others are of int64."""
Document = dict[str, Any]
T = TypeVar("T")


def to_json(profile: Profile) -> Document:
    """Return plain values from which `from_json` makes the same profile."""
    return {
        "format": FORMAT,
        "hash": profile.hash,
        "model": profile.model,
        "version": profile.version,
        "digest": profile.digest,
        "made_at": profile.made_at,
        "source": profile.source,
        "tensors": {name: _reference(each) for name, each in profile.tensors.items()},
    }


def from_json(document: object) -> Profile:
    """Return the profile of a document.

    Raises
    ------
    InvalidProfile
        If it is none, contradicts itself, or is not what its hash says; with the place in the document.
    """
    said = _object(document, "$")
    if said.get("format") != FORMAT:
        raise InvalidProfile(f"expected {FORMAT!r} - at $.format; `turnout profile --to` writes one")
    profile = Profile(
        _text(said, "model"),
        _text(said, "version"),
        _text(said, "digest"),
        _each("$.tensors", said.get("tensors"), _parse_reference),
        _text(said, "made_at"),
        _text(said, "source"),
    )
    if profile.hash != said.get("hash"):
        raise InvalidProfile(f"the hash says {said.get('hash')!r}, the content {profile.hash} - at $.hash")
    return profile


def _reference(reference: Reference) -> Document:
    return {
        "of": reference.of,
        "view": reference.view,
        "dtype": reference.dtype,
        "elements": reference.elements,
        "panels": {name: _panel(each) for name, each in reference.panels.items()},
    }


def _panel(panel: Panel) -> Document:
    rows = len(panel.edges if isinstance(panel, Edges) else panel.codes)
    kind = "values" if isinstance(panel, Edges) else "categories"
    document: Document = {"kind": kind, "rows": rows}
    for each in fields(panel):
        value = getattr(panel, each.name)
        document[each.name] = pack(value) if isinstance(value, np.ndarray) else value
    return document


def _parse_reference(document: object) -> Reference:
    said = _object(document)
    panels = _each("panels", said.get("panels"), _parse_panel)
    of: Any = said.get("of")
    return Reference(of, _text(said, "view"), _text(said, "dtype"), _count(said, "elements"), panels)


def _parse_panel(document: object) -> Panel:
    said = _object(document)
    features = _texts(said.get("features"), "features", FEATURES_MAX)
    rows, columns = _count(said, "rows"), len(features)
    if not 1 <= rows <= max(EDGES_MAX, CATEGORIES_MAX):
        raise InvalidProfile(f"{rows} rows of edges or codes - at rows")

    def array(name: str, *shape: int) -> Any:
        return _at(name, lambda: unpack(said.get(name), "f8" if name in NUMBERS else "i8", shape))

    match said.get("kind"):
        case "values":
            dtype: Any = said.get("dtype")
            return Edges(
                features,
                dtype,
                _count(said, "n"),
                array("edges", rows, columns),
                array("counts", rows + 2, columns),
                array("mean", columns),
                array("std", columns),
                array("low", columns),
                array("high", columns),
            )
        case "categories":
            labels = said.get("labels")
            if not isinstance(labels, list | tuple) or len(labels) != columns:
                raise InvalidProfile("expected a list for each feature - at labels")
            return Alphabet(
                features,
                _count(said, "n"),
                array("codes", rows, columns),
                array("sizes", columns),
                array("counts", rows + 1, columns),
                tuple(_texts(each, "labels", CATEGORIES_MAX) for each in labels),
            )
        case kind:
            raise InvalidProfile(f"expected 'values' or 'categories', got {kind!r} - at kind")


def _each(place: str, value: object, parse: Callable[[object], T]) -> dict[str, T]:
    return {
        name: _at(f"{place}.{name}", partial(parse, each)) for name, each in _object(value, place).items()
    }


def _at(place: str, way: Callable[[], T]) -> T:
    """Return what `way` does; what is wrong is said with the place where."""
    try:
        return way()
    except ValueError as error:
        what, _, where = str(error).partition(" - at ")
        raise InvalidProfile(f"{what} - at {place}{'.' if where else ''}{where}") from None


def _object(value: object, place: str = "") -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise InvalidProfile(
        f"expected an object, got {type(value).__name__}" + (f" - at {place}" if place else "")
    )


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if isinstance(value, str):
        return value
    raise InvalidProfile(f"expected a string, got {type(value).__name__} - at {name}")


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidProfile(f"expected a whole number, got {type(value).__name__} - at {name}")


def _texts(value: object, place: str, most: int) -> tuple[str, ...]:
    if (
        isinstance(value, list | tuple)
        and len(value) <= most
        and all(isinstance(each, str) for each in value)
    ):
        return tuple(value)
    raise InvalidProfile(f"expected a list of at most {most} strings - at {place}")
