"""What are the rows of a file of training data, as inputs of a model?

.npz: an array for each input, a row in each index of its first dimension. .csv and .parquet: a column for
each feature of the only input, in the model's order, or a column for each input. Files are read block by
block, so they may be larger than memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.wire import Datatype, TensorSpec

BLOCK_ELEMENTS = 1 << 20
BLOCK_ROWS_MAX = 4096
NAMES_SHOWN_MAX = 8
Arrays = dict[str, NDArray[Any]]
"""A block: rows of some inputs, as many of each."""


class BadRows(ValueError):
    """A file is not rows of this model. The message says what, where, and what would work."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An input that a file may have rows of. `row` is the shape of one; -1 is any size."""

    name: str
    datatype: Datatype
    row: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        return f"input {self.name!r}, {self.datatype.name} {['rows', *self.row]}".replace("'rows'", "rows")

    @property
    def width(self) -> int:
        """How many elements a row has; -1 if that is open."""
        return -1 if -1 in self.row else math.prod(self.row)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that can be read once more each time they are asked for.

    Attributes
    ----------
    path : Path
    blocks : callable
        Yields them, a bounded number at a time.
    names : mapping of str to tuples of str
        What the file calls the features of an input, where it does.
    unused : tuple of str
        What else is in the file.
    """

    path: Path
    blocks: Callable[[], Iterator[Arrays]]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table are which input: their places, in the order of the input's elements."""

    places: Mapping[str, tuple[int, ...]]
    names: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]


def wanted(specs: Sequence[TensorSpec]) -> tuple[Wanted, ...]:
    """Return what rows of a model's inputs look like: a first dimension that is open counts rows."""
    return tuple(
        Wanted(
            each.name,
            each.datatype,
            each.shape[1:] if each.shape[:1] == (-1,) else each.shape,
            each.optional,
        )
        for each in specs
    )


def open_rows(path: Path, inputs: Sequence[Wanted], ignore: Sequence[str] = ()) -> Table:
    """Open a file of rows by the ending of its name; `ignore` names columns or arrays that are no input.

    Raises
    ------
    BadRows
        If it is none, or not of these inputs.
    """
    from serving.drift import rows_csv, rows_npz, rows_parquet

    ways = {".npz": rows_npz.table, ".csv": rows_csv.table, ".parquet": rows_parquet.table}
    way = ways.get(path.suffix.lower())
    if way is None:
        raise BadRows(f"{path}: rows are read from {', '.join(ways)}, by the ending of the file's name")
    try:
        return way(path, inputs, ignore)
    except OSError as error:
        raise BadRows(f"{path}: {error.strerror or error}") from None


def columns(path: Path, header: Sequence[str], inputs: Sequence[Wanted], ignore: Sequence[str]) -> Columns:
    """Decide which columns are which input."""
    _check_header(path, header, ignore)
    kept = {name: place for place, name in enumerate(header) if name not in ignore}
    known = [each for each in inputs if each.name in kept and each.width in (1, -1)]
    missing = [each for each in inputs if each.name not in kept and not each.optional]
    if known and not missing:
        named = {each.name: (kept[each.name],) for each in known}
        return Columns(named, {}, tuple(name for name in kept if name not in named))
    required = [each for each in inputs if not each.optional]
    if len(required) == 1 and required[0].width in (-1, len(kept)):
        only = required[0].name
        return Columns({only: tuple(kept.values())}, {only: tuple(kept)}, ())
    raise BadRows(f"{path}: {_what_would_do(kept, inputs, required)}")


def _check_header(path: Path, header: Sequence[str], ignore: Sequence[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise BadRows(f"{path}: two columns are called {twice[0]!r}")
    absent = [name for name in ignore if name not in header]
    if absent:
        raise BadRows(f"{path}: no column {absent[0]!r} to ignore; it has {listed(header)}")


def _what_would_do(kept: Mapping[str, int], inputs: Sequence[Wanted], required: Sequence[Wanted]) -> str:
    has = f"{len(kept)} columns, {listed(list(kept))}"
    if len(required) == 1:
        only = required[0]
        hint = "; --ignore COLUMN leaves one out" if len(kept) > only.width else ""
        return f"{has}; {only} takes {only.width}, named as you like and in the model's order{hint}"
    absent = [each.name for each in required if each.name not in kept]
    wide = [each.name for each in inputs if each.width > 1]
    if wide:
        return (
            f"{has}; {listed(wide)} take more than one number a row, so an .npz with an array for each input"
        )
    return f"{has}; none is called {listed(absent)}, and the model takes {listed([e.name for e in inputs])}"


def listed(names: Sequence[str]) -> str:
    """Return names for a message, the first few of them."""
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return (", ".join(repr(str(name)[:80]) for name in names[:NAMES_SHOWN_MAX]) or "nothing") + more


def block_rows(inputs: Sequence[Wanted]) -> int:
    """Return how many rows of these inputs are read at a time."""
    width = sum(max(each.width, 1) for each in inputs)
    return max(1, min(BLOCK_ROWS_MAX, BLOCK_ELEMENTS // width))


def as_input(values: NDArray[Any], to: Wanted, where: str, first_row: int) -> NDArray[Any]:
    """Return `values` in the input's own type; those that it cannot hold are refused, with their row."""
    own = to.datatype.dtype
    if own == np.object_:
        return _texts(values, to, where)
    if values.dtype.kind not in "biufV" or values.dtype.names:
        raise BadRows(f"{where}: {to} takes numbers; here are {values.dtype.name} values")
    with np.errstate(invalid="ignore", over="ignore"):
        made = values.astype(own)
        if own.kind in "fV" or values.dtype == own:
            return made
        same = made.astype(values.dtype) == values
        if values.dtype.kind == "f" and own.kind in "iu":
            same &= np.abs(values) <= 2.0 ** (8 * own.itemsize - (own.kind == "i"))
    if not same.all():
        at = tuple(np.argwhere(~same)[0].tolist())
        raise BadRows(f"{where}: row {first_row + at[0] + 1} has {values[at]!s}, which {to} cannot hold")
    return made


def _texts(values: NDArray[Any], to: Wanted, where: str) -> NDArray[Any]:
    if values.dtype.kind == "S":
        try:
            return np.char.decode(values, "utf-8").astype(np.object_)
        except UnicodeDecodeError:
            raise BadRows(f"{where}: {to} takes text; these bytes are not UTF-8") from None
    if values.dtype.kind == "U":
        return values.astype(np.object_)
    if values.dtype.kind == "O" and all(isinstance(each, str) for each in values.reshape(-1).tolist()):
        return values
    raise BadRows(f"{where}: {to} takes text; here are {values.dtype.name} values")
