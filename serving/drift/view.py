"""How do rows of a tensor become features: element by element, by channel, projected, as scores, as codes?

A row is what the tensor has per index of its first dimension where that is free, as it is wherever requests
are joined; otherwise the whole tensor is one row. Where a row's own size is free too, each element counts as
a row of the one feature `all`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kernels import projection
from serving.drift.profile import Edges, Reference
from serving.wire import DATATYPES, TensorSpec

if TYPE_CHECKING:
    from serving.config import Drift as Settings
    from serving.drift.profile import Profile

CHANNELS_MAX = 4
"""A dimension that is no larger, first or last of three, is taken for an image's channels."""
CHANNEL_FEATURES = ("mean", "std", "min", "max")
SCORES_SHOWN_MAX = 32
"""Classes up to which each score is a feature of its own; of more only class, confidence and entropy are."""
ELEMENTS_MAX = 8192
"""Of a row that is larger every second, third, ... run is taken: copying all 150,528 elements of an image on
the event loop takes as long as answering five small requests."""
RUN = 64
"""Elements, or pixels, that are taken or left together: single ones would touch as much memory as all do."""
ALL = "all"
CONFIDENCE = "confidence"


class View(StrEnum):
    """What is counted of a row."""

    FEATURES = "features"
    """Each element as a number."""
    CHANNELS = "channels"
    """An image: of each channel mean, standard deviation, least and greatest."""
    PROJECTION = "projection"
    """A long row: its fixed random projection."""
    SCORES = "scores"
    """A score for each class: the class, confidence, entropy, and few scores themselves."""
    CODES = "codes"
    """Each element as a category: booleans, strings, labels."""


class Kind(StrEnum):
    """How a panel is counted."""

    VALUES = "values"
    """Numbers, at or above each edge of the reference."""
    SPREAD = "spread"
    """Numbers without a reference, in cells of a sixteenth of an octave."""
    CATEGORIES = "categories"
    """Codes, each for itself."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Features that are counted together: all numbers, or all categories."""

    name: str
    kind: Literal[Kind.VALUES, Kind.CATEGORIES]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """How one tensor is looked at.

    Attributes
    ----------
    tensor : str
    of : {"input", "output"}
    view : View
    datatype : str
        The V2 name of the tensor's.
    shape : tuple of int
        Of a row; empty for a scalar. Rows of scores may stand in rows: then this is the last dimension.
    loose : bool
        Whether each element is a row, as rows of a tensor differ in size.
    channel_axis : int
        Where in `shape` the channels are: 0 or 2, or -1 for none.
    """

    tensor: str
    of: Literal["input", "output"]
    view: View
    datatype: str
    shape: tuple[int, ...]
    loose: bool = False
    channel_axis: int = -1
    step: int = field(init=False)
    """Every how-manieth run of elements, or pixels, is taken."""
    elements: int = field(init=False)
    """Of a row as it is taken."""
    dtype: np.dtype[Any] = field(init=False)
    """Of a row as it is taken: the tensor's own; int64 for strings, which are codes."""
    numbers: np.dtype[Any] = field(init=False)
    """As what it is counted: float32, or float64 for what that has no room for; int64 for codes."""
    panels: tuple[Panel, ...] = field(init=False)

    def __post_init__(self) -> None:
        own = DATATYPES[self.datatype].dtype
        step, elements = _thinned(self.shape, self.channel_axis, self.view)
        place = object.__setattr__
        place(self, "step", step)
        place(self, "elements", elements)
        place(self, "dtype", np.dtype(np.int64) if own.kind == "O" else own)
        place(self, "numbers", _numbers(own, self.view))
        place(self, "panels", tuple(_panels(self)))

    def __str__(self) -> str:
        return f"{self.of} {self.tensor!r} as {self.view} of {list(self.shape)} {self.datatype}"

    @property
    def row_bytes(self) -> int:
        """What a row takes where it waits."""
        return self.elements * self.dtype.itemsize

    def panel_dtype(self, panel: Panel) -> str:
        """Return as what a panel is counted: float32, float64, or int64 for categories."""
        if panel.kind is Kind.CATEGORIES:
            return "int64"
        return "float32" if panel.name == CONFIDENCE else self.numbers.name

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Say whether a tensor of `shape` is whole rows."""
        own = len(self.shape)
        if self.view is View.SCORES or self.loose:
            return self.loose or shape[-1:] == self.shape
        return shape[len(shape) - own :] == self.shape and len(shape) - own <= 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "tensor": self.tensor,
            "of": self.of,
            "view": str(self.view),
            "datatype": self.datatype,
            "shape": list(self.shape),
            "loose": self.loose,
            "channel_axis": self.channel_axis,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Look:
        """Read what `to_json` wrote; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
        values = dict(document)
        values["view"] = View(values["view"])
        values["shape"] = tuple(values["shape"])
        return cls(**values)


def look(
    spec: TensorSpec,
    of: Literal["input", "output"],
    settings: Settings,
    rows: bool,
    profile: Profile | None = None,
) -> Look | None:
    """Decide how a tensor is looked at; None if it is not.

    Parameters
    ----------
    spec : TensorSpec
    of : {"input", "output"}
    settings : serving.config.Drift
    rows : bool
        Whether the model takes batches, so that the first dimension is rows even where it is not free.
    profile : Profile, optional
        What it says of this tensor wins, if it can be of this tensor at all.
    """
    reference = profile.tensors.get(spec.name) if profile is not None else None
    if reference is not None and reference.of == of:
        chosen = _as_before(spec, of, rows, reference)
        if chosen is not None and matches(chosen, reference):
            return chosen
    return _by_itself(spec, of, settings, rows)


def matches(chosen: Look, reference: Reference) -> bool:
    """Say whether rows looked at so can be compared with `reference`."""
    mine = {panel.name: (panel.kind is Kind.VALUES, len(panel.features)) for panel in chosen.panels}
    theirs = {name: (isinstance(each, Edges), len(each.features)) for name, each in reference.panels.items()}
    return mine == theirs and reference.view == chosen.view and reference.elements == chosen.elements


def row_of(spec: TensorSpec, *, rows: bool) -> tuple[int, ...]:
    """Return the shape of a row as a model declares it; -1 is any size."""
    return spec.shape[1:] if spec.shape and (rows or spec.shape[0] == -1) else spec.shape


def _by_itself(
    spec: TensorSpec, of: Literal["input", "output"], settings: Settings, rows: bool
) -> Look | None:
    row, kind, name = row_of(spec, rows=rows), spec.datatype.dtype.kind, spec.datatype.name
    codes = kind in "bO" or (of == "output" and kind in "iu")
    if of == "output" and kind in "fV" and 0 < len(row) <= 2 and row[-1] >= 2:
        return Look(spec.name, of, View.SCORES, name, row[-1:])
    if 0 in row:
        return None
    size = math.prod(row)
    if -1 in row or (codes and size > settings.features_max):
        return Look(spec.name, of, View.CODES if codes else View.FEATURES, name, (1,), loose=True)
    if codes or size <= settings.features_max:
        return Look(spec.name, of, View.CODES if codes else View.FEATURES, name, row)
    axis = _channel_axis(row)
    view = View.PROJECTION if axis < 0 else View.CHANNELS
    return Look(spec.name, of, view, name, row, channel_axis=axis)


def _as_before(
    spec: TensorSpec, of: Literal["input", "output"], rows: bool, reference: Reference
) -> Look | None:
    """Return the look that a profile was made with; None where it cannot have been this tensor."""
    row, name = row_of(spec, rows=rows), spec.datatype.name
    try:
        view = View(reference.view)
    except ValueError:
        return None
    if view is View.SCORES:
        row = row[-1:]
    single = view in (View.FEATURES, View.CODES) and reference.elements == 1
    if single and (-1 in row or math.prod(row) != 1):
        return Look(spec.name, of, view, name, (1,), loose=True)
    if -1 in row and row.count(-1) == 1 and view not in (View.CHANNELS, View.PROJECTION):
        known = -math.prod(row)
        row = tuple(reference.elements // max(known, 1) if size == -1 else size for size in row)
    axis = _channel_axis(row) if view is View.CHANNELS else -1
    numbers_only = view in (View.FEATURES, View.CHANNELS, View.PROJECTION, View.SCORES)
    if -1 in row or 0 in row or (numbers_only and spec.datatype.dtype.kind == "O"):
        return None
    if (view is View.CHANNELS and axis < 0) or (view is View.CODES and spec.datatype.dtype.kind in "fV"):
        return None
    if view is View.SCORES and (spec.datatype.dtype.kind not in "fV" or not row):
        return None
    return Look(spec.name, of, view, name, row, channel_axis=axis)


def _channel_axis(row: tuple[int, ...]) -> int:
    if len(row) != 3:
        return -1
    return 0 if row[0] <= CHANNELS_MAX else 2 if row[2] <= CHANNELS_MAX else -1


def _thinned(shape: tuple[int, ...], channel_axis: int, view: View) -> tuple[int, int]:
    """Return every how-manieth run of a row is taken, and how many elements that makes."""
    size = math.prod(shape)
    if view not in (View.CHANNELS, View.PROJECTION) or size <= ELEMENTS_MAX:
        return 1, size
    step = -(-size // ELEMENTS_MAX)
    channels = shape[channel_axis] if channel_axis >= 0 else 1
    return step, channels * -(-(size // channels // RUN) // step) * RUN


def _numbers(own: np.dtype[Any], view: View) -> np.dtype[Any]:
    match view:
        case View.CODES:
            return np.dtype(np.int64)
        case View.CHANNELS | View.PROJECTION:
            return np.dtype(np.float32)
    # float32 holds all of int16 and float16, and no more.
    return np.dtype(np.float64 if own.itemsize > 4 or (own.kind in "iu" and own.itemsize > 2) else np.float32)


def _panels(look: Look) -> list[Panel]:
    match look.view:
        case View.FEATURES:
            return [Panel("values", Kind.VALUES, _names(look))]
        case View.CODES:
            return [Panel("codes", Kind.CATEGORIES, _names(look))]
        case View.CHANNELS:
            each = range(look.shape[look.channel_axis])
            names = tuple(f"c{at}.{what}" for at in each for what in CHANNEL_FEATURES)
            return [Panel("channels", Kind.VALUES, names)]
        case View.PROJECTION:
            return [Panel("projection", Kind.VALUES, tuple(f"p{at}" for at in range(projection.OUTPUTS)))]
        case View.SCORES:
            scores = look.shape[-1]
            panels = [
                Panel("class", Kind.CATEGORIES, ("class",)),
                Panel(CONFIDENCE, Kind.VALUES, ("confidence", "entropy")),
            ]
            if scores <= SCORES_SHOWN_MAX:
                panels.append(Panel("scores", Kind.VALUES, tuple(f"score.{at}" for at in range(scores))))
            return panels


def _names(look: Look) -> tuple[str, ...]:
    """Name a row's elements by their places: `3`, or `2,5` in rows of two dimensions."""
    if look.loose:
        return (ALL,)
    return tuple(",".join(map(str, at)) or "value" for at in np.ndindex(*look.shape))
