"""Where do rows of a stream go that somebody wants to keep? Into a file of NumPy's, once it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

PART = ".part"


class Capture:
    """A file in the making, of `rows` rows as they stand in the ring; it bears its name when it is whole.

    Before, it has another, and the control reads the rows that are in it already: they are written at once.
    Rows of a type that NumPy does not know by itself are written as float32.
    """

    def __init__(self, path: str, rows: int) -> None:
        self._path = Path(path)
        self._left = self._rows = rows
        self._file: BinaryIO | None = None

    def take(self, rows: NDArray[Any]) -> bool:
        """Write rows, and say whether that is all."""
        if rows.dtype.kind == "V":
            rows = rows.astype(np.float32)
        if self._file is None:
            self._file = self._part.open("wb", buffering=0)
            head = {"descr": npy.dtype_to_descr(rows.dtype), "fortran_order": False}
            npy.write_array_header_1_0(self._file, head | {"shape": (self._rows, rows.shape[1])})
        some = rows[: self._left]
        self._file.write(np.ascontiguousarray(some).data)
        self._left -= len(some)
        if self._left:
            return False
        self._file.close()
        self._part.rename(self._path)
        return True

    def give_up(self) -> None:
        """Leave it as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _part(self) -> Path:
        return self._path.with_name(self._path.name + PART)
