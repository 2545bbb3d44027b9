"""What would a device do with the batches it is given, and when would it be done?

Copies in, runs and copies out are queues of their own, as on a GPU: each serves one batch at a time, in the
order in which they were given, and a run waits for its copies. Only the clock is real: waiting sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from mmap import mmap
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.gpubench.page import Done
from serving.errors import Failed, Invalid
from serving.model import ModelSpec

RunNs = Callable[[int], int]
"""How long a run of so many rows takes."""
Compute = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]
"""What a run gives; it is called when the result is waited for, with views of the slot's arrays."""


class Queue:
    """A part of a device that does one thing after the other."""

    def __init__(self) -> None:
        self.free_ns = 0
        self.busy_ns = 0
        self.count = 0

    def give(self, earliest_ns: int, takes_ns: int) -> int:
        """Queue something that can start no earlier than this; return when it is done."""
        end_ns = max(earliest_ns, self.free_ns) + takes_ns
        self.free_ns = end_ns
        self.busy_ns += takes_ns
        self.count += 1
        return end_ns


class SimulatedDevice:
    """A device that any number of versions share.

    Parameters
    ----------
    copy_bytes_per_s : float
        Of each direction.
    now_ns : callable
        The clock.

    Attributes
    ----------
    inward, runs, outward : Queue
        Its copy engines and, between them, what computes.
    rows : int
        How many the runs had, as far as it was said.
    late : int
        How many runs started after the device had been idle.
    idle_ns : int
        For how long, between the first run and the last, nothing ran.
    """

    def __init__(
        self,
        copy_bytes_per_s: float,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.copy_bytes_per_s = copy_bytes_per_s
        self.now_ns = now_ns
        self.lock = RLock()
        self.inward, self.runs, self.outward = Queue(), Queue(), Queue()
        self.first_ns = self.rows = self.late = self.idle_ns = 0

    def copy_ns(self, size_bytes: int) -> int:
        """Return how long a copy takes."""
        return int(size_bytes / self.copy_bytes_per_s * 1e9)

    def copy_in(self, size_bytes: int) -> int:
        """Queue a copy to the device; return when it is done."""
        with self.lock:
            return self.inward.give(self.now_ns(), self.copy_ns(size_bytes))

    def run(self, copied_ns: int, takes_ns: int, rows: int = 0) -> int:
        """Queue a run; return when it is done."""
        with self.lock:
            self.rows += rows
            earliest_ns = max(self.now_ns(), copied_ns)
            if not self.first_ns:
                self.first_ns = earliest_ns
            elif earliest_ns > self.runs.free_ns:
                self.late += 1
                self.idle_ns += earliest_ns - self.runs.free_ns
            return self.runs.give(earliest_ns, takes_ns)

    def copy_out(self, ran_ns: int, size_bytes: int) -> int:
        """Queue a copy back; return when it is done."""
        with self.lock:
            return self.outward.give(ran_ns, self.copy_ns(size_bytes))

    @property
    def busy_ns(self) -> int:
        """For how long something ran, or will have run when all that is queued is done."""
        return self.runs.busy_ns

    @property
    def done(self) -> Done:
        """The counts."""
        counts = self.runs.count, self.rows, self.late, self.idle_ns, self.first_ns
        return Done(self.busy_ns, self.runs.free_ns, *counts, self.inward.free_ns, self.outward.free_ns)

    def go_on(self, done: Done) -> None:
        """Go on from these counts."""
        self.runs.busy_ns, self.runs.free_ns, self.runs.count = done.busy_ns, done.free_ns, done.runs
        self.rows, self.late, self.idle_ns, self.first_ns = done.rows, done.late, done.idle_ns, done.first_ns
        self.inward.free_ns, self.outward.free_ns = done.inward_ns, done.outward_ns


@dataclass(eq=False)
class SimulatedSlot:
    """Buffers, and when what was queued for them is done."""

    inputs: dict[str, NDArray[Any]]
    copied_ns: int = 0
    done_ns: int = 0
    rows: int = 0
    stages: int = field(default=0)


class SimulatedAccelerator:
    """A version on a simulated device.

    Parameters
    ----------
    run_ns : callable
    copy_bytes_per_s : float
        Of each direction; of no account where a `device` is given.
    compute : callable
        From the inputs of a batch to its outputs. Raising `Invalid` or `Failed` fails the batch.
    spec : ModelSpec
    device : SimulatedDevice, optional
        Where several versions share one.
    """

    def __init__(
        self,
        run_ns: RunNs,
        copy_bytes_per_s: float,
        compute: Compute,
        spec: ModelSpec,
        device: SimulatedDevice | None = None,
    ) -> None:
        self._run_ns, self._compute, self._spec = run_ns, compute, spec
        self.device = device or SimulatedDevice(copy_bytes_per_s)
        self.rows_max = max(spec.rows_max, 1)
        self._row_bytes = sum(prod(each.shape[1:]) * each.datatype.itemsize for each in spec.outputs)
        self.closed = False
        self.batches: list[int] = []
        """The rows of each run so far."""

    @property
    def busy_ns(self) -> int:
        """For how long the device ran."""
        return self.device.busy_ns

    def slot(self) -> SimulatedSlot:
        """Allocate buffers."""
        return SimulatedSlot(
            {
                each.name: _pinned((self.rows_max, *each.shape[1:]), each.datatype.dtype)
                for each in self._spec.inputs
            }
        )

    def stage(self, slot: SimulatedSlot, rows: int) -> None:
        """Queue the copy of these rows."""
        size_bytes = sum(array[:rows].nbytes for array in slot.inputs.values())
        slot.copied_ns, slot.rows = self.device.copy_in(size_bytes), rows
        slot.stages += 1

    def launch(self, slot: SimulatedSlot, rows: int) -> None:
        """Queue the run and the copy back."""
        assert slot.rows == rows, "what is launched was staged"
        self.batches.append(rows)
        ran_ns = self.device.run(slot.copied_ns, self._run_ns(rows), rows)
        slot.done_ns = self.device.copy_out(ran_ns, max(rows * self._row_bytes, 0))

    def wait(self, slot: SimulatedSlot, rows: int) -> list[NDArray[Any]]:
        """Sleep until the copy back would be done, and work out what it would hold."""
        left_ns = slot.done_ns - self.device.now_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        inputs = {name: array[:rows] for name, array in slot.inputs.items()}
        slot.rows = 0
        try:
            return [np.ascontiguousarray(each) for each in self._compute(inputs)]
        except (Invalid, Failed):
            raise
        except Exception as error:
            raise Failed(f"the model failed: {error}") from error

    def close(self) -> None:
        """Note that it was given back."""
        self.closed = True


def _pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array in memory of its own, which goes back to the system whole, as pinned memory does."""
    size_bytes = max(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, 1)
    return np.ndarray(shape, dtype, mmap(-1, size_bytes))
