"""What does the pipeline need of a device that a version was put on?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.config import Config
from serving.model import ModelSpec


class Slot(Protocol):
    """The buffers of one batch on its way: written by whoever gathers it, read by the device."""

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Contiguous arrays of the host, (rows_max, ...) each, of the inputs that are not optional.

        In the model's order, and in memory that the device can read by itself.
        """


class Accelerator(Protocol):
    """One version on a device, whose work is queued in order and never runs two batches at a time.

    A slot goes through `stage`, `launch` and `wait`, in this order, and may then be written again. All three
    raise `Failed` or `Invalid`, and what fails of one batch breaks none of the next.
    """

    @property
    def rows_max(self) -> int:
        """How many rows a slot has room for."""

    def slot(self) -> Slot:
        """Allocate buffers. A few times, when the version is loaded."""

    def stage(self, slot: Slot, rows: int) -> None:
        """Begin to copy the first `rows` of the slot's inputs to the device. Any thread; returns at once."""

    def launch(self, slot: Slot, rows: int) -> None:
        """Queue the run after the slot's copies and all runs queued before, and after it the copies back.

        Returns at once. The owner thread only.
        """

    def wait(self, slot: Slot, rows: int) -> list[NDArray[Any]]:
        """Block until that is done; return the outputs in the model's order, in arrays of their own.

        Any thread.
        """

    def close(self) -> None:
        """Give everything back. The owner thread, when nothing is under way."""


Accelerate = Callable[[Any, ModelSpec, Config], "Accelerator | None"]
"""Puts a version, opened as a session of ONNX Runtime, on its device; None leaves it to plain runs."""
