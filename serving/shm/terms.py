"""What does a request want of shared memory? Worked out once for all requests that are alike."""

from __future__ import annotations

from dataclasses import dataclass

from serving.slots import SLOT_BYTES_MIN
from serving.wire import Call, TensorIn, Window


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a stretch, from `start` to `stop`, that is the elements of the call's input `index`."""

    index: int
    tensor: TensorIn
    window: Window
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Memory that is read at once, and what lies there."""

    window: Window
    pieces: tuple[Piece, ...]

    def with_next(self, index: int, tensor: TensorIn, window: Window) -> Stretch | None:
        """Return this and a window right behind it as one, if reading both at once takes less.

        Small inputs often lie side by side, and then a system call for each costs more than the bytes. Large
        ones are read into slots, of which each belongs to one input.
        """
        region, offset, size_bytes = self.window
        whole_bytes = size_bytes + window.size_bytes
        if (window.region, window.offset) != (region, offset + size_bytes) or whole_bytes >= SLOT_BYTES_MIN:
            return None
        piece = Piece(index, tensor, window, size_bytes, whole_bytes)
        return Stretch(Window(region, offset, whole_bytes), (*self.pieces, piece))


@dataclass(frozen=True, slots=True)
class Terms:
    """The stretches to read, of `size_bytes` in all, and where outputs are to be put, by their names."""

    stretches: tuple[Stretch, ...]
    size_bytes: int
    targets: dict[str, Window]


def terms(call: Call) -> Terms:
    """Work out what a call wants."""
    stretches: list[Stretch] = []
    for index, tensor in enumerate(call.inputs):
        if (window := tensor.window) is None:
            continue
        longer = stretches[-1].with_next(index, tensor, window) if stretches else None
        if longer is not None:
            stretches[-1] = longer
        else:
            whole = Piece(index, tensor, window, 0, window.size_bytes)
            stretches.append(Stretch(window, (whole,)))
    targets = {each.name: each.window for each in call.outputs or () if each.window is not None}
    return Terms(tuple(stretches), sum(each.window.size_bytes for each in stretches), targets)
