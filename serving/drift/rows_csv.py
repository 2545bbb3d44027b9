"""What are the rows of a .csv file: a header, then a row a line?

An empty cell is a missing number, NaN, or an empty text.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.rows import Arrays, BadRows, Columns, Table, Wanted, as_input, block_rows, columns

BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
CELL_SHOWN_MAX = 40
Line = tuple[int, list[str]]
"""Its number in the file, and its cells."""
Parse = Callable[[str], Any]


def table(path: Path, inputs: Sequence[Wanted], ignore: Sequence[str]) -> Table:
    """Return the rows of `path`; raises as `rows.open_rows`."""
    lines = _lines(path)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    if not header:
        raise BadRows(f"{path}: it is empty; the first line names the columns")
    if all(_is_number(name) for name in header):
        raise BadRows(f"{path}: the first line has numbers; it has to name the columns")
    if next(lines, None) is None:
        raise BadRows(f"{path}: no rows below the header")
    chosen = columns(path, header, inputs, ignore)
    used = [each for each in inputs if each.name in chosen.places]

    def blocks() -> Iterator[Arrays]:
        return _blocks(path, used, chosen, len(header))

    return Table(path, blocks, chosen.names, chosen.unused)


def _lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if cells:  # An empty line is none.
                    yield reader.line_num, cells
        except csv.Error as error:
            raise BadRows(f"{path}: line {reader.line_num}: {error}") from None
        except UnicodeDecodeError as error:
            raise BadRows(f"{path}: after line {reader.line_num} it is not UTF-8: {error.reason}") from None


def _blocks(path: Path, inputs: Sequence[Wanted], chosen: Columns, width: int) -> Iterator[Arrays]:
    step = block_rows([Wanted(e.name, e.datatype, (len(chosen.places[e.name]),)) for e in inputs])
    lines, before = _lines(path), 0
    next(lines)
    while block := list(islice(lines, step)):
        for number, cells in block:
            if len(cells) != width:
                raise BadRows(f"{path}: line {number} has {len(cells)} cells, the header {width}")
        yield {each.name: _array(path, block, each, chosen.places[each.name], before) for each in inputs}
        before += len(block)


def _array(path: Path, block: Sequence[Line], to: Wanted, places: Sequence[int], before: int) -> NDArray[Any]:
    rows = [[cells[place] for place in places] for _, cells in block]
    if to.datatype.dtype.kind == "O":
        values: NDArray[Any] = np.array(rows, np.object_)
    else:
        parse = _parser(to)
        parsed = [_parsed(path, block[at], row, places, parse) for at, row in enumerate(rows)]
        values = np.array(parsed, None if to.datatype.dtype.kind in "fV" else to.datatype.dtype)
    shape = [len(places) if size == -1 else size for size in to.row]
    return as_input(values.reshape(-1, *shape), to, str(path), before)


def _parsed(path: Path, line: Line, row: Sequence[str], places: Sequence[int], parse: Parse) -> list[Any]:
    try:
        return [parse(cell) for cell in row]
    except _NotThat as error:
        place = places[next(at for at, cell in enumerate(row) if cell is error.args[0])]
        shown = repr(error.args[0][:CELL_SHOWN_MAX])
        raise BadRows(f"{path}: line {line[0]}, column {place + 1}: {shown} is no {error.args[1]}") from None


class _NotThat(Exception):
    """The cell, and what it should be."""


def _parser(to: Wanted) -> Parse:
    """Return what reads a cell of an input."""
    own = to.datatype.dtype
    if own.kind not in "iu":
        return _boolean if own.kind == "b" else _number
    least, greatest = int(np.iinfo(own).min), int(np.iinfo(own).max)

    def whole(cell: str) -> int:
        try:
            value: float = int(cell) if cell.strip().lstrip("+-").isdecimal() else float(cell)
            if value == int(value) and least <= value <= greatest:
                return int(value)
        except (ValueError, OverflowError):
            pass
        raise _NotThat(cell, f"whole number that {to.datatype.name} can hold")

    return whole


def _number(cell: str) -> float:
    try:
        return float(cell) if cell.strip() else float("nan")
    except ValueError:
        raise _NotThat(cell, "number") from None


def _boolean(cell: str) -> bool:
    try:
        return BOOLEANS[cell.strip().lower()]
    except KeyError:
        raise _NotThat(cell, "true or false") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
