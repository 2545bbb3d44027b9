"""What are the rows of an .npz file: an array for each input?

Arrays are read from the archive as they come and never unpickled, so a file can neither run code nor fill
the memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from serving.drift.rows import Arrays, BadRows, Table, Wanted, as_input, block_rows, listed

TURNED_BYTES_MAX = 1 << 30
"""Of an array that is stored column by column, which is read whole."""
ENDING = ".npy"


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


def table(path: Path, inputs: Sequence[Wanted], ignore: Sequence[str]) -> Table:
    """Return the rows of `path`; raises as `rows.open_rows`."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(ENDING) for name in archive.namelist() if name.endswith(ENDING)]
            chosen = _chosen(path, [name for name in held if name not in ignore], inputs)
            headers = {name: _header(path, archive, held) for name, held in chosen.items()}
    except zipfile.BadZipFile:
        raise BadRows(f"{path}: no .npz file; numpy.savez makes one") from None
    by_name = {each.name: each for each in inputs}
    used = [by_name[name] for name in chosen]
    for each in used:
        _check(path, chosen[each.name], headers[each.name], each)
    counts = {chosen[name]: header.shape[0] for name, header in headers.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise BadRows(f"{path}: arrays have different numbers of rows: {said}")

    def blocks() -> Iterator[Arrays]:
        return _blocks(path, used, chosen, headers)

    return Table(path, blocks, unused=tuple(name for name in held if name not in chosen.values()))


def _chosen(path: Path, held: Sequence[str], inputs: Sequence[Wanted]) -> dict[str, str]:
    """Return the array of each input: by its name, or the only one of the only input."""
    required = [each.name for each in inputs if not each.optional]
    if len(held) == len(required) == 1:
        return {required[0]: held[0]}
    missing = [name for name in required if name not in held]
    if missing:
        raise BadRows(f"{path}: no array {listed(missing)}; it has {listed(held)}, inputs are found by name")
    return {each.name: each.name for each in inputs if each.name in held}


def _header(path: Path, archive: zipfile.ZipFile, held: str) -> _Header:
    with archive.open(held + ENDING) as file:
        return _read_header(path, file, held)


def _read_header(path: Path, file: IO[bytes], held: str) -> _Header:
    try:
        match npy.read_magic(file):
            case (1, 0):
                return _Header(*npy.read_array_header_1_0(file))
            case (2, 0):
                return _Header(*npy.read_array_header_2_0(file))
            case version:
                raise BadRows(f"{path}: array {held!r} is of .npy version {version}; 1.0 and 2.0 are read")
    except BadRows:
        raise
    except ValueError as error:
        raise BadRows(f"{path}: {held!r} is no array: {error}") from None


def _check(path: Path, held: str, header: _Header, to: Wanted) -> None:
    where = f"{path}: array {held!r}"
    if header.dtype.hasobject:
        raise BadRows(f"{where} holds Python objects, which are not read; text is: array.astype(str)")
    fits = len(header.shape) == len(to.row) + 1 and all(
        want in (-1, got) for want, got in zip(to.row, header.shape[1:], strict=True)
    )
    if not fits:
        hint = ""
        if to.width > 0 and header.shape and header.shape[0] * to.width == int(np.prod(header.shape)):
            hint = f"; array.reshape({', '.join(map(str, (-1, *to.row)))}) would do"
        raise BadRows(f"{where} has shape {list(header.shape)}, {to} does not take that{hint}")
    if header.shape[0] == 0:
        raise BadRows(f"{where} has no rows")


def _blocks(
    path: Path, inputs: Sequence[Wanted], chosen: dict[str, str], headers: dict[str, _Header]
) -> Iterator[Arrays]:
    sized = [Wanted(e.name, e.datatype, headers[e.name].shape[1:]) for e in inputs]
    step, count = block_rows(sized), headers[inputs[0].name].shape[0]
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        readers = {
            each.name: _Reader(path, stack.enter_context(archive.open(chosen[each.name] + ENDING)), each.name)
            for each in inputs
        }
        for start in range(0, count, step):
            yield {
                each.name: as_input(
                    readers[each.name].take(min(step, count - start)),
                    each,
                    f"{path}: array {chosen[each.name]!r}",
                    start,
                )
                for each in inputs
            }


class _Reader:
    """The rows of one array, in order."""

    def __init__(self, path: Path, file: IO[bytes], held: str) -> None:
        self._path, self._file, self._held = path, file, held
        self._header = _read_header(path, file, held)
        self._whole: NDArray[Any] | None = None
        if self._header.by_columns and len(self._header.shape) > 1:
            size = int(np.prod(self._header.shape)) * self._header.dtype.itemsize
            if size > TURNED_BYTES_MAX:
                raise BadRows(
                    f"{path}: array {held!r} is stored column by column and of {size} bytes; save "
                    "numpy.ascontiguousarray(array)"
                )
            self._whole = self._bytes(size).reshape(self._header.shape[::-1]).T

    def take(self, count: int) -> NDArray[Any]:
        """Return the next `count` rows."""
        if self._whole is not None:
            taken, self._whole = self._whole[:count], self._whole[count:]
            return np.ascontiguousarray(taken)
        row = self._header.shape[1:]
        size = count * int(np.prod(row)) * self._header.dtype.itemsize
        return self._bytes(size).reshape(count, *row)

    def _bytes(self, size: int) -> NDArray[Any]:
        try:
            content = self._file.read(size)
        except (zipfile.BadZipFile, EOFError) as error:
            raise BadRows(f"{self._path}: array {self._held!r} is damaged: {error}") from None
        if len(content) != size:
            raise BadRows(f"{self._path}: array {self._held!r} ends too soon")
        return np.frombuffer(content, self._header.dtype)
