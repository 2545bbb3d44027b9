"""How is a profile made of live requests? Replicas write their next rows into files until they are enough.

Each replica is asked for all of the rows, and writes a file for each stream; the control looks how long the
files have become, also of replicas that are gone by now, and ends it when they are enough together. If they
stop to grow although rows are counted, it asks anew, for files beside those that there are.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from serving.drift.build import build
from serving.drift.capture import PART
from serving.drift.profile import Profile
from serving.drift.view import Look
from serving.private import private, read, replace

TERMS = "harvest.json"
ROWS_MAX = 10_000_000
BYTES_MAX = 1 << 30
"""What the files of one harvest may have; and the rows of about a second, until it is noticed."""
BLOCK_BYTES = 16 << 20
STALLED_S = 30.0

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is wanted."""

    model: str
    version: str
    wanted: int

    def too_much(self, looks: Mapping[int, Look]) -> str:
        """Say why the files of so many rows would be too large; nothing if they are not."""
        row_bytes = sum({look.tensor: look.row_bytes for look in looks.values()}.values())
        if self.wanted * row_bytes <= BYTES_MAX:
            return ""
        return (
            f"{self.wanted} rows of {row_bytes} bytes are more than {BYTES_MAX >> 20} MiB; "
            f"at most {BYTES_MAX // row_bytes} rows can be frozen"
        )


class Harvest:
    """The rows of one version that are gathered.

    Parameters
    ----------
    folder : Path
        Its own.

    Attributes
    ----------
    rows : int
        So far: of the tensor that has the fewest, those left aside of which there are none.
    is_ripe : bool
        Whether they are enough.
    is_taken : bool
        Whether somebody makes the profile already.
    """

    def __init__(self, folder: Path, terms: Terms, round_: int = 1) -> None:
        self.folder = folder
        self.terms = terms
        self._round = round_
        self.rows = 0
        self.is_ripe = False
        self.is_taken = False
        self._gathered = 0
        self._grew_us = 0
        self._counted = 0
        """Rows that were counted when it last grew."""
        self._was_enough = False

    @classmethod
    def begin(cls, captures: Path, terms: Terms) -> Harvest:
        """Begin one in a folder of its own."""
        harvest = cls(private(captures / secrets.token_hex(8)), terms)
        harvest._go_on()
        return harvest

    @classmethod
    def resume(cls, folder: Path) -> Harvest:
        """Go on with one of a control that ended; `ValueError`, `TypeError` or `KeyError`: it is none."""
        said = json.loads(read(folder / TERMS))
        return cls(folder, Terms(said["model"], said["version"], int(said["wanted"])), int(said["round"]))

    def _go_on(self) -> None:
        terms = self.terms
        document = {
            "model": terms.model,
            "version": terms.version,
            "wanted": terms.wanted,
            "round": self._round,
        }
        replace(self.folder / TERMS, json.dumps(document))
        private(self._into)

    @property
    def _into(self) -> Path:
        return self.folder / str(self._round)

    def ask(self) -> Message:
        """Return what replicas are told."""
        return self._said(self.terms.wanted)

    def end(self) -> Message:
        """Return what replicas are told when it is enough."""
        return self._said(0)

    def _said(self, rows: int) -> Message:
        terms = self.terms
        return {"model": terms.model, "version": terms.version, "rows": rows, "into": str(self._into)}

    def look(self, looks: Mapping[int, Look], counted: int, now_us: int) -> list[Message]:
        """See how far it is, and return what replicas are to be told.

        Parameters
        ----------
        looks : mapping of int to Look
            Of the version's streams, by number.
        counted : int
            How many rows were counted of them.
        """
        found = self._rows(looks)
        gathered = sum(found.values())
        if gathered > self._gathered or counted == self._counted:
            self._grew_us, self._counted = now_us, counted
        self.rows, self._gathered = min(found.values(), default=0), gathered
        stalled, enough = now_us - self._grew_us > STALLED_S * 1e6, self.rows >= self.terms.wanted
        # Enough at two looks in a row, so that no tensor has yet to begin. An input that is seldom sent is
        # not waited for once the others have what they need.
        spare = stalled and max(found.values(), default=0) >= self.terms.wanted
        self.is_ripe, self._was_enough = (enough and self._was_enough) or spare, enough
        if not stalled or self.is_ripe:
            return []
        self._grew_us, self._counted = now_us, counted
        before = self.end()
        self._round += 1
        self._go_on()
        return [before, self.ask()]

    def build(self, looks: Mapping[int, Look], digest: str, categories_max: int, made_at: str) -> Profile:
        """Make the profile. It takes a while; whoever calls it is in no hurry.

        Raises
        ------
        TooMuch, InvalidProfile
            If that cannot be made of these rows.
        """
        chosen = {each.tensor: each for each in looks.values()}
        return build(
            self.terms.model,
            self.terms.version,
            digest,
            tuple(chosen.values()),
            self._blocks(looks),
            categories_max=categories_max,
            made_at=made_at,
            source=f"{self.terms.wanted} live requests",
        )

    def _files(self, looks: Mapping[int, Look]) -> Iterator[tuple[Look, NDArray[Any]]]:
        """Return the rows of each file, as they are on the disk."""
        for path in sorted(self.folder.glob("*/*.npy*"), key=lambda path: (int(path.parent.name), path.name)):
            number = path.name.removesuffix(PART).removesuffix(".npy")
            look = looks.get(int(number)) if number.isdecimal() else None
            rows = _opened(path, look.elements) if look is not None else None
            if look is not None and rows is not None:
                yield look, rows

    def _rows(self, looks: Mapping[int, Look]) -> dict[str, int]:
        found: dict[str, int] = {}
        for look, rows in self._files(looks):
            found[look.tensor] = found.get(look.tensor, 0) + len(rows)
        return found

    def _blocks(self, looks: Mapping[int, Look]) -> Iterator[Mapping[str, NDArray[Any]]]:
        left = {each.tensor: self.terms.wanted for each in looks.values()}
        for look, rows in self._files(looks):
            step = max(BLOCK_BYTES // max(rows.strides[0], 1), 1)
            taken = rows[: left[look.tensor]]
            left[look.tensor] -= len(taken)
            for begin in range(0, len(taken), step):
                yield {look.tensor: np.asarray(taken[begin : begin + step])}


def _opened(path: Path, elements: int) -> NDArray[Any] | None:
    """Return the whole rows of a file that may still grow; None if it has no whole head, or other rows."""
    try:
        with path.open("rb") as file:
            npy.read_magic(file)
            shape, _, dtype = npy.read_array_header_1_0(file)
            begin = file.tell()
            size = path.stat().st_size
    except (OSError, ValueError):
        return None
    if len(shape) != 2 or shape[1] != elements or dtype.hasobject:
        return None
    rows = min((size - begin) // (dtype.itemsize * elements), shape[0])
    if rows <= 0:
        return None
    return np.memmap(path, dtype, "r", begin, (rows, elements))
