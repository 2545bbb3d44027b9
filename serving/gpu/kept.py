"""Do unloaded versions give back what they took, and is the process to be replaced because they do not?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from serving.family import Family, Kind, Of
from serving.gpu.driver import DriverError, lost, opened
from serving.gpu.need import mebibytes

log = logging.getLogger("turnout.gpu")

FAMILY = Family(
    "turnout_memory_kept_bytes",
    Kind.GAUGE,
    lambda server: server.kept_bytes,
    "Memory that versions did not give back when they were unloaded, by device.",
    of=Of.SERVER,
    over="device",
)
TOLD_BYTES = 32 << 20
"""By how much more must be missing than when it was last said, before it is said again."""


class Kept:
    """What is held beyond what the loaded versions took, above the least that it ever was.

    That least is the process itself and the libraries that a first version brings along. What is above
    it was not given back; or it is a buffer with a bound of its own that has filled meanwhile.

    Parameters
    ----------
    bytes_max : int
        What may be missing on a device before the process counts as worn; 0 for any amount.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._levels: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._worn = ""
        self.bytes: Mapping[str, int] = {}
        """By device, as of the last version that was unloaded."""

    @property
    def worn(self) -> str:
        """Why the process is to be replaced; empty if it is not."""
        return self._worn or lost()

    def over(self, used: Mapping[str, int], held: Sequence[Mapping[str, int]]) -> bool:
        """Say whether more is missing of a device than may be."""
        missing = (beyond - self._levels.get(device, beyond) for device, beyond in _beyond(used, held))
        return bool(self._bytes_max) and max(missing, default=0) > self._bytes_max

    def look(self, used: Mapping[str, int], held: Sequence[Mapping[str, int]]) -> None:
        """Compare what is used of each device with what the loaded versions took, after one was unloaded."""
        kept = {}
        for device, beyond in _beyond(used, held):
            level = self._levels[device] = min(beyond, self._levels.get(device, beyond))
            kept[device] = beyond - level
            self._tell(device, kept[device])
        self.bytes = kept

    def _tell(self, device: str, kept: int) -> None:
        if kept > self._told.get(device, 0) + TOLD_BYTES:
            self._told[device] = kept
            log.warning("event=memory_not_given_back device=%s bytes=%d", device, kept)
        if 0 < self._bytes_max < kept and not self._worn:
            limit = mebibytes(self._bytes_max)
            self._worn = f"unloaded versions left {mebibytes(kept)} behind on {device}; {limit} are allowed"
            log.error("event=worn_out reason=%r", self._worn)


def _beyond(used: Mapping[str, int], held: Sequence[Mapping[str, int]]) -> Iterator[tuple[str, int]]:
    """Yield what of each device is used by nothing that is loaded."""
    for device, used_bytes in used.items():
        yield device, used_bytes - sum(memory.get(device, 0) for memory in held)


def used_on_gpus() -> dict[str, int]:
    """Return what is used of the GPUs that this process has had to do with, by whomever."""
    used = {}
    for side in opened():
        with suppress(DriverError):  # Of one that does not answer there is nothing to say.
            free, total = side.mem_info()
            used[f"cuda:{side.gpu}"] = total - free
    return used
