"""What is there to say about one GPU, whichever of a node's replicas uses it?"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What a GPU says of itself; None is what it does not tell, such as a part of one (MIG) its power.

    Replicas that share a GPU say the same of it, but for the moment: of two that differ, the larger counts.
    """

    utilization: float | None = None
    """The part of the last moments in which it worked, from 0 to 1."""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    """By whomever."""
    power_w: float | None = None
    power_w_max: float | None = None
    energy_j: float | None = None
    """Since its driver was loaded."""

    def __add__(self, other: GpuReading) -> GpuReading:
        pairs = [(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)]
        return GpuReading(*[max((each for each in pair if each is not None), default=None) for pair in pairs])
