"""What are the rows of a .parquet file? Read by pyarrow, an optional extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.rows import Arrays, BadRows, Columns, Table, Wanted, as_input, block_rows, columns


def table(path: Path, inputs: Sequence[Wanted], ignore: Sequence[str]) -> Table:
    """Return the rows of `path`; raises as `rows.open_rows`."""
    parquet = _parquet(path)
    try:
        file = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:  # pyarrow's errors are both.
        raise BadRows(f"{path}: {error}") from None
    with file:
        header = file.schema_arrow.names
        if file.metadata.num_rows == 0:
            raise BadRows(f"{path}: it has no rows")
    chosen = _lists(path, header, inputs, ignore, file.schema_arrow) or columns(path, header, inputs, ignore)
    used = [each for each in inputs if each.name in chosen.places]

    def blocks() -> Iterator[Arrays]:
        return _blocks(parquet, path, used, chosen, header)

    return Table(path, blocks, chosen.names, chosen.unused)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise BadRows(
            f"{path}: reading .parquet takes pyarrow, which is not installed; `pip install pyarrow`, "
            "or save the rows as .npz or .csv"
        ) from None
    return parquet


def _lists(
    path: Path, header: Sequence[str], inputs: Sequence[Wanted], ignore: Sequence[str], schema: Any
) -> Columns | None:
    """Return the columns of inputs, each by its name, if some hold lists: a whole row in a cell."""
    held = [each for each in inputs if each.name in header and each.name not in ignore]
    lists = [each for each in held if hasattr(schema.field(each.name).type, "value_type")]
    missing = [each.name for each in inputs if each not in held and not each.optional]
    if not lists or missing:
        return None
    narrow = [each for each in held if each not in lists and each.width not in (1, -1)]
    if narrow:
        raise BadRows(f"{path}: column {narrow[0].name!r} has one value a row, {narrow[0]} takes more")
    named = {each.name: (list(header).index(each.name),) for each in held}
    return Columns(named, {}, tuple(name for name in header if name not in named and name not in ignore))


def _blocks(
    parquet: Any, path: Path, inputs: Sequence[Wanted], chosen: Columns, header: Sequence[str]
) -> Iterator[Arrays]:
    wanted_columns = [header[place] for places in chosen.places.values() for place in places]
    before = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=block_rows(inputs), columns=wanted_columns):
            yield {
                each.name: _array(path, batch, each, [header[at] for at in chosen.places[each.name]], before)
                for each in inputs
            }
            before += batch.num_rows


def _array(path: Path, batch: Any, to: Wanted, names: Sequence[str], before: int) -> NDArray[Any]:
    listed = [_column(path, batch.column(name), name, to) for name in names]
    values = listed[0] if len(listed) == 1 else np.stack(listed, axis=1)
    size = values.size // max(batch.num_rows, 1)
    shape = [size if extent == -1 else extent for extent in to.row]
    if int(np.prod(shape)) != size:
        raise BadRows(f"{path}: column {names[0]!r} has lists of {size}, {to} takes another number")
    return as_input(values.reshape(-1, *shape), to, f"{path}: column {names[0]!r}", before)


def _column(path: Path, column: Any, name: str, to: Wanted) -> NDArray[Any]:
    """Return a column, or a matrix of one whose cells are lists as long as each other."""
    if hasattr(column, "dictionary_decode"):
        column = column.dictionary_decode()
    if not hasattr(column.type, "value_type"):
        return _plain(column, to)
    lengths = set(column.value_lengths().to_pylist()) if hasattr(column, "value_lengths") else {None}
    if len(lengths) > 1:
        raise BadRows(f"{path}: column {name!r} has lists of different lengths")
    return _plain(column.flatten(), to).reshape(len(column), -1)


def _plain(column: Any, to: Wanted) -> NDArray[Any]:
    if to.datatype.dtype == np.object_:
        return np.array(["" if each is None else each for each in column.to_pylist()], np.object_)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)  # NaN where a number is missing.
    return values
