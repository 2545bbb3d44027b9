"""What was a model asked lately? Its newest inputs, as many as a budget of bytes holds, by any version."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import prod

from serving.model import ModelSpec
from serving.replay.block import BLOCK_BYTES, UNIT_BYTES, Block, Room, blocks
from serving.track import Batch, Tap

BATCHES_MAX = 100
"""Batches that are taken of a model in a period (`serving.replay.captures.SWEEP_S`); others pass by."""
COPIED_BYTES_MAX = 1 << 20
"""What is copied of it in a period; what was beyond it is taken off the next one."""
HELD_BYTES_MAX = 128 << 10
"""What batches have together that are held, as a reference each, to be copied at once."""
HELD_UNITS_MAX = 256
JOINED_BYTES_MAX, JOINED_UNITS_MAX = 64 << 10, 256
"""Blocks up to here are joined, for each takes 2 KiB beside what is in it."""
STRING_PRICE = 4
"""What a byte of strings counts where others are copied: it takes so much longer."""


class Capture:
    """Blocks of inputs, oldest first; whoever adds one may push out others at the other end.

    Parameters
    ----------
    bytes_max, units_max : int
        They hold at every moment.

    Attributes
    ----------
    taken, pushed_out, passed : int
        Inputs that were added, those that had to go again, and batches that were not looked at.
    """

    def __init__(self, bytes_max: int, units_max: int) -> None:
        self._blocks: deque[Block] = deque()
        self.bytes_max, self.units_max = bytes_max, units_max
        self.nbytes = self.units = 0
        self.taken = self.pushed_out = self.passed = 0
        self.pace = Pace()

    def __repr__(self) -> str:
        return f"<Capture: {self.units} inputs, {self.nbytes} of {self.bytes_max} bytes>"

    @property
    def room(self) -> Room:
        """What a block may have, so that there is always more than one."""
        return Room(max(self.units_max // 2, 1), self.bytes_max // 2)

    def limit(self, bytes_max: int) -> None:
        """Keep no more than that from now on."""
        self.bytes_max = bytes_max
        self._let_go(0, 0)

    def add(self, block: Block) -> None:
        """Take in inputs; the oldest go for which there is no room any more."""
        if block.nbytes > self.bytes_max or block.units > self.units_max:
            return
        self.taken += block.units
        last = self._blocks[-1] if self._blocks else None
        if last is not None and self._go_together(last, block):
            block = last.joined(block)
            self._drop(self._blocks.pop())
        self._let_go(block.nbytes, block.units)
        self._blocks.append(block)
        self.nbytes += block.nbytes
        self.units += block.units

    def newest(self, units: int) -> list[Block]:
        """Return the newest inputs, at most so many, oldest first."""
        found: list[Block] = []
        for block in reversed(self._blocks):
            if units <= 0:
                break
            found.append(block if block.units <= units else block.newest(units))
            units -= block.units
        return found[::-1]

    def _let_go(self, nbytes: int, units: int) -> None:
        """Let the oldest go until there is room for so much."""
        while self._blocks and (self.nbytes + nbytes > self.bytes_max or self.units + units > self.units_max):
            oldest = self._blocks.popleft()
            self._drop(oldest)
            self.pushed_out += oldest.units

    def _drop(self, block: Block) -> None:
        self.nbytes -= block.nbytes
        self.units -= block.units

    def _go_together(self, one: Block, later: Block) -> bool:
        nbytes, units = one.nbytes + later.nbytes, one.units + later.units
        small = nbytes <= min(JOINED_BYTES_MAX, self.bytes_max // 4)
        few = units <= min(JOINED_UNITS_MAX, self.units_max // 4)
        return small and few and one.form == later.form


class Pace:
    """How much of a model is taken in this period yet; its versions share it, so that each gets its part."""

    __slots__ = ("bytes_left", "left")

    def __init__(self) -> None:
        self.left = BATCHES_MAX
        """Batches; below 0 it counts those that passed."""
        self.bytes_left = COPIED_BYTES_MAX

    @property
    def fresh(self) -> bool:
        """Whether nothing was taken in this period, and not too much in the one before."""
        return self.left == BATCHES_MAX and self.bytes_left == COPIED_BYTES_MAX

    def copied(self, nbytes: int) -> None:
        """Note what was copied; when it is enough, nothing more is taken."""
        self.bytes_left -= nbytes
        if self.bytes_left <= 0:
            self.left = min(self.left, 0)

    def renew(self) -> int:
        """Begin a period; return how many batches passed in the last one."""
        passed = max(-self.left, 0)
        self.bytes_left = min(self.bytes_left + COPIED_BYTES_MAX, COPIED_BYTES_MAX)
        self.left = BATCHES_MAX if self.bytes_left > 0 else 0
        return passed


class Scoop:
    """Takes what one version answered.

    Parameters
    ----------
    spec : ModelSpec
    capture : Capture
    wake : callable
        Told when it takes the first batch of a period, after which `write` is to be called soon.
    """

    __slots__ = ("_capture", "_held", "_most", "_units", "spec", "tap")

    def __init__(self, spec: ModelSpec, capture: Capture, wake: Callable[[], None]) -> None:
        self.spec = spec
        self._capture = capture
        self._held: list[Batch] = []
        self._units = 0
        self._most = units_held_max(spec)
        self.tap: Tap = self._tap(wake)
        """What is to be called with each batch, on the event loop."""

    def __repr__(self) -> str:
        return f"<Scoop of {self.spec}: {self._units} units held>"

    def _tap(self, wake: Callable[[], None]) -> Tap:
        # A closure, as in `serving.drift.intake`: what passes by is to cost next to nothing.
        append, pace = self._held.append, self._capture.pace

        def tap(batch: Batch) -> None:
            left = pace.left
            pace.left = left - 1
            if left > 0:
                append(batch)
                self._units += batch.rows or 1
                if left == BATCHES_MAX:
                    wake()
                if self._units >= self._most:
                    self.write()

        return tap

    def write(self) -> None:
        """Keep what is held."""
        held, capture = self._held[:], self._capture
        self._held.clear()
        self._units = 0
        for block in blocks(self.spec.artifact.version, held, capture.room):
            dear = any(array.dtype.kind == "O" for array in block.arrays.values())
            capture.pace.copied(block.nbytes * (STRING_PRICE if dear else 1))
            capture.add(block)

    def close(self) -> None:
        """Keep what is held, and what its lane has still to answer at once: nobody will ask for it."""
        self.write()
        self._most = 1
        self.tap = _nothing  # It holds this object, and with it all that was captured.


def _nothing(_batch: Batch) -> None:
    """Take no batch."""


def units_held_max(spec: ModelSpec) -> int:
    """Return from how many rows on batches are held no longer; 1 where nobody knows how large they are."""
    units = [each.shape[1:] if spec.rows_max else each.shape for each in spec.inputs]
    if any(-1 in unit for unit in units) or any(not each.datatype.itemsize for each in spec.inputs):
        return 1
    unit_bytes = UNIT_BYTES + sum(
        prod(unit) * each.datatype.itemsize for unit, each in zip(units, spec.inputs, strict=True)
    )
    return max(min((HELD_BYTES_MAX - BLOCK_BYTES) // unit_bytes, HELD_UNITS_MAX), 1)
