"""What is to be counted of a model's answers, and against what? The control says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.evidence.counts import QUANTILES


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one model.

    What is not frozen is not counted, and measured instead: `serving.evidence.evidence.Evidence.measure`.

    Attributes
    ----------
    model : str
    versions : frozenset of str
        Those that are compared.
    late_ns : tuple of int or None
        From arrival to answer: what of the stable version's requests took longer, p50, p90 and p99.
    confidence : float or None
        Below it a top score is a low one.
    output : str
        Which output has the scores; empty for the first that has several a row.
    """

    model: str
    versions: frozenset[str]
    late_ns: tuple[int, int, int] | None = None
    confidence: float | None = None
    output: str = ""

    def __post_init__(self) -> None:
        if self.late_ns is not None and (
            len(self.late_ns) != len(QUANTILES) or list(self.late_ns) != sorted(self.late_ns)
        ):
            raise ValueError(f"expected {len(QUANTILES)} ascending latencies, got {list(self.late_ns)}")

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "model": self.model,
            "versions": sorted(self.versions, key=int),
            "late_ns": None if self.late_ns is None else list(self.late_ns),
            "confidence": self.confidence,
            "output": self.output,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Terms:
        """Read what `to_json` wrote; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
        late_ns = document.get("late_ns")
        return cls(
            document["model"],
            frozenset(document["versions"]),
            None if late_ns is None else tuple(late_ns),
            document.get("confidence"),
            document.get("output", ""),
        )
