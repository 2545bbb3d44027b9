"""What share of its model's requests did a version get, beside the one that it is to have?"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from router.deal import log_e_value
from router.table import WHOLE_BP

REST = "rest"


@dataclass(frozen=True, slots=True)
class ShareReading:
    """A version's part of what was dealt. Those of a node's replicas add up.

    Attributes
    ----------
    epoch : int
        The revision that gave the model its route; counts but the two totals are since then.
    weight_bp : int
        In basis points, as configured.
    drawn, held : int
        Requests that fell to the version, at random and by their caller's key.
    all_drawn, all_held : int
        Those of the model.
    split_total, sticky_total : int
        Requests that fell to the version since it was loaded first, in any epoch.
    """

    epoch: int = 0
    weight_bp: int = 0
    drawn: int = 0
    held: int = 0
    all_drawn: int = 0
    all_held: int = 0
    split_total: int = 0
    sticky_total: int = 0

    def __add__(self, other: ShareReading) -> ShareReading:
        newer, older = (self, other) if self.epoch >= other.epoch else (other, self)
        same = newer.epoch == older.epoch
        return ShareReading(
            newer.epoch,
            max(newer.weight_bp, older.weight_bp) if same else newer.weight_bp,
            newer.drawn + (older.drawn if same else 0),
            newer.held + (older.held if same else 0),
            newer.all_drawn + (older.all_drawn if same else 0),
            newer.all_held + (older.all_held if same else 0),
            newer.split_total + older.split_total,
            newer.sticky_total + older.sticky_total,
        )

    @property
    def weight(self) -> float:
        """The share that it is to have, from 0 to 1."""
        return self.weight_bp / WHOLE_BP

    @property
    def ratio(self) -> float:
        """The share that it got, from 0 to 1; the configured one while nothing was dealt."""
        dealt = self.all_drawn + self.all_held
        return (self.drawn + self.held) / dealt if dealt else self.weight

    @property
    def evidence_log10(self) -> float:
        """The evidence that what was drawn at random is not dealt by the weight: log10 of an e-value."""
        counts = {"it": self.drawn, REST: self.all_drawn - self.drawn}
        return log_e_value(counts, {"it": self.weight_bp, REST: WHOLE_BP - self.weight_bp}) / log(10)
