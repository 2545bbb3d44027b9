"""Is there room on a GPU for one more version, before anything of it is put there?

What a version will need is known only roughly: its weights are about its files, its buffers are exact, and
what its runs need beside them depends on the kernels that are chosen. Once a version was loaded by this
process, it is what it took then.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from serving.gpu.driver import Driver
from serving.gpu.settings import Gpu

WORKSPACE_BYTES = 256 << 20
"""What runs are taken to need beside weights and buffers. An assumption: it was not measured on a GPU."""
REMEMBERED_MAX = 1024


class NoRoom(RuntimeError):
    """A version that does not fit onto its GPU beside what is there."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a version is expected to take of a GPU, in bytes."""

    weights: int
    workspace: int = WORKSPACE_BYTES
    seen: int = 0
    """What it took when it was loaded before; 0 if it never was."""

    @property
    def total(self) -> int:
        """All of it."""
        return max(self.seen, self.weights) if self.seen else self.weights + self.workspace

    def __str__(self) -> str:
        if self.seen:
            return f"{mebibytes(self.total)}, as it took before"
        parts = f"{mebibytes(self.weights)} of weights and {mebibytes(self.workspace)} to run"
        return f"about {mebibytes(self.total)}: {parts}"


class Remembered:
    """What versions took of a GPU when they were loaded, by their digests and how they were opened."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken: dict[object, int] = {}

    def get(self, key: object) -> int:
        """Return what it took, 0 if that is not known."""
        with self._lock:
            return self._taken.get(key, 0)

    def note(self, key: object, taken: int) -> None:
        """Remember the least that it took: the first version takes what libraries need as well.

        The oldest are forgotten.
        """
        with self._lock:
            self._taken[key] = min(taken, self._taken.get(key, taken))
            while len(self._taken) > REMEMBERED_MAX:
                del self._taken[next(iter(self._taken))]


def mebibytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 10 << 30 else f"{-(-size // (1 << 20))} MiB"


def refusal(needed: int, told: str, free: int, settings: Gpu) -> str:
    """Return why so much is not to be had with so much `free`; empty if it is."""
    room = free - settings.spare_bytes
    if needed <= room:
        return ""
    kept = f" beside the {mebibytes(settings.spare_bytes)} of gpu.spare_bytes" if settings.spare_bytes else ""
    return f"it needs {told}; {mebibytes(max(room, 0))} are free{kept}; unload another version first"


def check_start(side: Driver, need: Need, settings: Gpu) -> None:
    """Refuse a version before it is opened; raises `NoRoom`."""
    free, _ = side.mem_info()
    if fault := refusal(need.total, str(need), free, settings):
        raise NoRoom(f"GPU {side.gpu}: {fault}")


def check_buffers(side: Driver, size: int, settings: Gpu) -> None:
    """Refuse a version's buffers before they are allocated; raises `NoRoom`."""
    free, _ = side.mem_info()
    told = f"{mebibytes(size)} of buffers for its batches, which a smaller max_batch_size makes less"
    if fault := refusal(size, told, free, settings):
        raise NoRoom(f"GPU {side.gpu}: {fault}")
