"""How does a batch run on buffers that lie where the device has them, beside the copies of other batches?

A version has three queues: copies in, runs, copies out. Events between them keep the order of one batch; two
batches share nothing but the queues, so that one is copied while another runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serving.errors import Failed, TurnoutError
from serving.gpu.accelerator import Slot
from serving.gpu.driver import DriverError
from serving.gpu.side import Side
from serving.model import ModelSpec
from serving.session import BF16, BF16_ONNX, reason
from serving.wire import TensorSpec

log = logging.getLogger("turnout.gpu")

RUNS_BOUND_MAX = 256
"""Numbers of rows that a slot remembers a binding for, where rows are not padded."""
PREFIX = "Error in execution: "
NO_GRAPH = -1
"""ONNX Runtime's `gpu_graph_id` of runs that are not captured."""


class NoGraphs(RuntimeError):
    """A model whose runs cannot be captured, though its session was opened for that."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor's place on the host and on the device, with room for `rows_max` rows."""

    spec: TensorSpec
    array: NDArray[Any]
    address: int
    row_bytes: int

    @property
    def source(self) -> int:
        """Where it is on the host."""
        return int(self.array.ctypes.data)


@dataclass(slots=True, eq=False)
class BoundSlot:
    """The buffers of one batch on its way, and the marks that it leaves in the queues."""

    number: int
    inputs: dict[str, NDArray[Any]]
    taken: tuple[Buffer, ...]
    given: tuple[Buffer, ...]
    staged: int
    ran: int
    done: int
    runs: dict[int, tuple[Any, ort.RunOptions]] = field(default_factory=dict)
    under_way: int = 0
    """Rows of the batch that was launched last and not waited for yet."""


class BoundAccelerator:
    """One version on a device, by ONNX Runtime's binding of inputs and outputs.

    With `graphs` each number of rows up to a power of two is one run, padded with zeros, that is captured for
    each slot when that is made; without, exactly the rows of a batch run and nothing is padded.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Opened on the device of `side`, with its runs in `compute`, and for capturing if there are `graphs`.
    spec : ModelSpec
        Of which `serving.gpu.placing.fits_slots` is true.
    """

    def __init__(
        self, session: Any, spec: ModelSpec, side: Side, compute: int, *, graphs: bool = False
    ) -> None:
        self.rows_max = spec.rows_max
        self._session = session
        self._side = side
        self._spec = spec
        self._graphs = graphs
        self._compute = compute
        self._in, self._out = side.stream(), side.stream()
        self._slots: list[BoundSlot] = []
        self._numbers = count()
        self._sizes = sizes(spec.rows_max) if graphs else ()

    def __repr__(self) -> str:
        return f"<BoundAccelerator {self._spec} on {self._side.kind}:{self._side.gpu}>"

    def slot(self) -> BoundSlot:
        """Allocate buffers, and capture the runs on them. The owner thread only.

        Raises
        ------
        NoGraphs
            If there were to be captures and the model cannot be captured.
        Failed
            If there is not enough memory.
        """
        try:
            slot = self._allocated()
        except DriverError as error:
            raise Failed(f"its buffers cannot be allocated: {error}") from error
        self._slots.append(slot)
        for rows in reversed(self._sizes):
            try:
                self.stage(slot, rows)
                self.launch(slot, rows)
                self.wait(slot, rows)
            except TurnoutError as error:
                raise NoGraphs(f"its runs cannot be captured as CUDA graphs: {error}") from error
        return slot

    def _allocated(self) -> BoundSlot:
        side, spec = self._side, self._spec
        made: list[Buffer] = []
        try:
            required = [each for each in spec.inputs if not each.optional]
            made.extend(map(self._buffer, (*required, *spec.outputs)))  # As far as it gets.
            events = side.event(), side.event(), side.event()
        except DriverError:
            for buffer in made:  # No slot has them that would give them back.
                with suppress(DriverError):
                    side.free(buffer.address)
            raise
        taken, given = made[: len(required)], made[len(required) :]
        inputs = {each.spec.name: each.array for each in taken}
        return BoundSlot(next(self._numbers), inputs, tuple(taken), tuple(given), *events)

    def _buffer(self, spec: TensorSpec) -> Buffer:
        shape = (self.rows_max, *spec.shape[1:])
        row_bytes = row_size(spec)
        host = self._side.host_memory(row_bytes * self.rows_max)
        host[:] = 0
        address = self._side.device_memory(row_bytes * self.rows_max)
        return Buffer(spec, host.view(spec.datatype.dtype).reshape(shape), address, row_bytes)

    def stage(self, slot: Slot, rows: int) -> None:
        """Begin to copy rows to the device, behind whatever last read the slot's buffers there."""
        assert isinstance(slot, BoundSlot)
        side, slot.under_way = self._side, 0
        padding = self._size(rows) - rows
        try:
            side.enter()
            side.follow(self._in, slot.ran)
            for each in slot.taken:
                side.copy_in(each.address, each.source, rows * each.row_bytes, self._in)
                if padding:
                    side.zero(each.address + rows * each.row_bytes, padding * each.row_bytes, self._in)
            side.record(slot.staged, self._in)
        except DriverError as error:
            raise Failed(f"the device failed: {error}") from error

    def launch(self, slot: Slot, rows: int) -> None:
        """Queue the run, and the copies of what it gives. The owner thread only."""
        assert isinstance(slot, BoundSlot)
        side, size = self._side, self._size(rows)
        binding, options = slot.runs.get(size) or self._bind(slot, size)
        try:
            side.enter()
            side.follow(self._compute, slot.staged)
            side.follow(self._compute, slot.done)  # Else what it gave before might be on its way still.
            self._session.run_with_iobinding(binding, options)
            side.record(slot.ran, self._compute)
            side.follow(self._out, slot.ran)
            for each in slot.given:
                side.copy_out(each.source, each.address, rows * each.row_bytes, self._out)
            side.record(slot.done, self._out)
        except DriverError as error:
            raise Failed(f"the device failed: {error}") from error
        except Exception as error:  # Where there is a binding ONNX Runtime leaves only the words of it.
            raise Failed(f"the model failed: {reason(error).removeprefix(PREFIX)}") from error
        slot.under_way = rows

    def wait(self, slot: Slot, rows: int) -> list[NDArray[Any]]:
        """Block until the slot's batch is done; return what it gave."""
        assert isinstance(slot, BoundSlot)
        if slot.under_way != rows:
            raise Failed(f"no batch of {rows} rows is under way")
        slot.under_way = 0
        try:
            self._side.wait(slot.done)
        except DriverError as error:
            raise Failed(f"the device failed: {error}") from error
        return [each.array[:rows].copy() for each in slot.given]

    def close(self) -> None:
        """Give all buffers back, when whatever is queued is done. Idempotent."""
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.runs.clear()  # They hold the session.
        try:
            self._give_back(slots)
        except DriverError as error:  # Then nothing of this process on the device is of any use any more.
            log.error("version=%s event=buffers_kept reason=%r", self._spec, str(error))

    def _give_back(self, slots: Sequence[BoundSlot]) -> None:
        side = self._side
        side.enter()
        for stream in (self._in, self._compute, self._out) if slots else ():
            try:
                side.finish(stream)
            except DriverError as error:
                if error.lost:
                    raise
        for slot in slots:
            for each in (*slot.taken, *slot.given):
                side.free(each.address)
            for event in (slot.staged, slot.ran, slot.done):
                side.end_event(event)
        streams, self._in, self._out = {self._in, self._out} - {0}, 0, 0
        for stream in streams:
            side.end_stream(stream)

    def _size(self, rows: int) -> int:
        return next(each for each in self._sizes if each >= rows) if self._graphs else rows

    def _bind(self, slot: BoundSlot, rows: int) -> tuple[Any, ort.RunOptions]:
        """Return the run of so many rows on a slot's buffers, and how it is to be run."""
        binding = self._session.io_binding()
        where = self._side.kind, self._side.gpu
        for bind, buffers in ((binding.bind_input, slot.taken), (binding.bind_output, slot.given)):
            for each in buffers:
                shape = [rows, *each.spec.shape[1:]]
                bind(each.spec.name, *where, element_type(each.spec), shape, each.address)
        number = 1 + slot.number * len(self._sizes) + self._sizes.index(rows) if self._graphs else NO_GRAPH
        options = ort.RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry("gpu_graph_id", str(number))
        # It is the events that are waited for; else the owner thread would wait here for each run to end.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if len(slot.runs) >= RUNS_BOUND_MAX and not self._graphs:
            slot.runs.clear()
        slot.runs[rows] = binding, options
        return slot.runs[rows]


def sizes(rows_max: int) -> tuple[int, ...]:
    """Return the numbers of rows that are captured: the powers of two, and the largest batch."""
    return (*[1 << power for power in range((rows_max - 1).bit_length())], rows_max)


def row_size(spec: TensorSpec) -> int:
    """Return the bytes of one row of a tensor that has nothing open but its rows."""
    return int(np.prod(spec.shape[1:], dtype=np.int64)) * spec.datatype.itemsize


def slot_size(spec: ModelSpec) -> int:
    """Return the bytes that the buffers of one slot take on the device, and as many on the host."""
    tensors: Sequence[TensorSpec] = [*[each for each in spec.inputs if not each.optional], *spec.outputs]
    return spec.rows_max * sum(map(row_size, tensors))


def element_type(spec: TensorSpec) -> Any:
    """Return what ONNX Runtime's binding calls a datatype: NumPy's, which has no BF16."""
    dtype = spec.datatype.dtype
    return BF16_ONNX if dtype == BF16 else dtype.type
