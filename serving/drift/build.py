"""How does a profile follow from rows? By the same looks as live ones, in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.drift import features
from serving.drift.profile import Panel, Profile, Reference
from serving.drift.references import alphabet_of, edges_of
from serving.drift.view import Kind, Look

GATHERED_BYTES_MAX = 1 << 30
"""Edges are quantiles, so all values of the features are held at once."""


class TooMuch(ValueError):
    """There are more rows than are held at once."""


@dataclass(frozen=True, slots=True)
class Words:
    """What things are called: of a tensor, its features in their order, and its codes."""

    features: tuple[str, ...] = ()
    codes: Mapping[int, str] = field(default_factory=dict)


class Gathering:
    """The features of rows that are still coming, and in the end the references of their tensors.

    Parameters
    ----------
    looks : sequence of Look
        Of each tensor that counts.
    """

    def __init__(self, looks: Sequence[Look]) -> None:
        self._looks = {each.tensor: each for each in looks}
        self._parts: dict[tuple[str, str], list[NDArray[np.generic]]] = {
            (each.tensor, panel.name): [] for each in looks for panel in each.panels
        }
        self._bytes = self._rows = 0

    def add(self, taken: Mapping[str, features.Rows]) -> None:
        """Take in rows by tensor, as `features.rows` returns them.

        Raises
        ------
        TooMuch
            If with them there are more than are held at once.
        """
        self._rows += max((len(rows) for rows in taken.values()), default=0)
        for tensor, rows in taken.items():
            for panel, matrix in features.panels(self._looks[tensor], rows).items():
                self._bytes += matrix.nbytes
                if self._bytes > GATHERED_BYTES_MAX:
                    raise TooMuch(
                        f"after {self._rows} rows their features fill {GATHERED_BYTES_MAX >> 20} MiB, and no "
                        "more are held at once; a random sample of fewer rows makes as good a profile"
                    )
                self._parts[tensor, panel].append(matrix)

    def references(self, categories_max: int, words: Mapping[str, Words]) -> dict[str, Reference]:
        """Return the reference of each tensor of which there was at least one row."""
        return {
            tensor: self._reference(look, categories_max, words.get(tensor, Words()))
            for tensor, look in self._looks.items()
            if any(len(part) for part in self._parts[tensor, look.panels[0].name])
        }

    def _reference(self, look: Look, categories_max: int, words: Words) -> Reference:
        panels: dict[str, Panel] = {}
        for panel in look.panels:
            matrix = np.concatenate(self._parts.pop((look.tensor, panel.name)))
            told = panel.name in {"values", "codes"} and len(words.features) == len(panel.features)
            names = words.features if told else panel.features
            if panel.kind is Kind.CATEGORIES:
                panels[panel.name] = alphabet_of(matrix, names, words.codes, categories_max)
            else:
                panels[panel.name] = edges_of(matrix, names)
        return Reference(look.of, str(look.view), look.dtype.name, look.elements, panels)


def build(
    model: str,
    version: str,
    digest: str,
    looks: Sequence[Look],
    blocks: Iterable[Mapping[str, features.Rows]],
    *,
    categories_max: int,
    made_at: str,
    source: str,
    words: Mapping[str, Words] | None = None,
) -> Profile:
    """Return the profile of a version from rows by tensor, block by block, as `features.rows` returns them.

    Raises
    ------
    TooMuch
        If they are more than are held at once.
    InvalidProfile
        If there are none.
    """
    gathering = Gathering(looks)
    for block in blocks:
        gathering.add(block)
    references = gathering.references(categories_max, words or {})
    return Profile(model, version, digest, references, made_at, source)
