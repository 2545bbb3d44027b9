"""What does a shadow's process do? It takes batches from the ring, runs them, and compares what comes out.

All that it tells is in the shared memory, so that nothing it has compared ends with it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernels.histogram import bins_ns
from serving import confine
from serving.drift.outlet import outlets
from serving.labels.echo import Echoing
from serving.model import Device
from serving.shadow import board as b
from serving.shadow import sample
from serving.shadow.board import Board, Sheet
from serving.shadow.ring import TAIL, Reader
from serving.wire import DATATYPES, TensorSpec

if TYPE_CHECKING:
    from serving.shadow.contrast import Contrast

REASON_CHARACTERS_MAX = 400


@dataclass(frozen=True, slots=True)
class Task:
    """What the process is made for, as its only argument has it."""

    parent: int
    ring: int
    board: int
    line: int
    path: str
    graph_level: int | None
    inputs: list[tuple[str, str, bool]]
    outputs: list[tuple[str, str, list[int]]]
    sides: list[int]
    rows_max: int
    age_ns_max: int
    memory_bytes_max: int
    outlets: list[dict[str, Any]]
    echo: dict[str, Any] | None

    @property
    def takes(self) -> list[TensorSpec]:
        """The inputs; whoever fills the ring checked their shapes."""
        return [
            TensorSpec(name, DATATYPES[datatype], (), optional) for name, datatype, optional in self.inputs
        ]

    @property
    def gives(self) -> list[TensorSpec]:
        """The outputs."""
        return [TensorSpec(name, DATATYPES[datatype], tuple(shape)) for name, datatype, shape in self.outputs]


def say(out: int, error: BaseException) -> None:
    """Write a line about an error for whoever wonders."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    os.write(out, text[:REASON_CHARACTERS_MAX].encode() + b"\n")


class Shadowing:
    """The loop.

    Parameters
    ----------
    task : Task
    out : int
        Where one line goes for whoever wonders why runs fail.
    """

    def __init__(self, task: Task, out: int) -> None:
        from serving.shadow.contrast import Contrast  # Compiles at its first time, and writes that down.

        self._task, self._out = task, out
        self._line = socket.socket(fileno=task.line)
        self._reader = Reader(task.ring)
        self._board = Board(task.sides, task.board)
        self._desk = self._board.desk
        self._inputs, self._outputs = task.takes, task.gives
        self._sheets: dict[int, Sheet] = {}
        self._contrasts: dict[int, Contrast] = {}
        self._new_contrast: Callable[[], Contrast] = partial(Contrast, self._outputs)
        self._unseen: set[int] = set()
        self._said = False
        self._outlets = outlets(task.outlets)
        self._echo = Echoing(task.echo) if task.echo is not None else None
        self._names = [each.name for each in self._outputs]
        from serving.session import Session, Stop, open_onnx

        confine.write_no_files()
        confine.limit_memory(task.memory_bytes_max)
        session = open_onnx(task.path, Device.CPU, 1, task.graph_level)
        self._session, self._stop = Session(session, self._inputs, self._outputs), Stop()
        self._desk[b.READY] = 1

    def serve(self) -> None:
        """Take what the parent says is there."""
        while self._listen():
            while (entry := self._reader.take()) is not None:
                self._take(entry)
                entry.release()
                self._reader.done()
                self._desk[b.LOST] = 0
            for arm in self._unseen:
                self._board.show(arm, self._sheets[arm])
            self._unseen.clear()

    def _listen(self) -> bool:
        """Wait for word from the parent, and say whether it is still there."""
        told = self._line.recv(TAIL.size)
        while told:
            self._reader.tail = max(self._reader.tail, TAIL.unpack(told)[0])
            try:
                told = self._line.recv(TAIL.size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
        return False

    def _take(self, entry: memoryview) -> None:
        ended_ns, rows, arm, _ = sample.head(entry)
        self._desk[b.ARM], self._desk[b.LOST] = arm, rows or 1
        if arm not in self._sheets:
            self._sheets[arm] = self._board.read(arm)
            self._contrasts[arm] = self._new_contrast()
        sheet = self._sheets[arm]
        if time.monotonic_ns() - ended_ns > self._task.age_ns_max:
            sheet.words[b.STALE] += rows or 1
            self._unseen.add(arm)  # Shown together: a queue of them is to be through with at once.
            return
        try:
            self._compare(sheet, sample.read(entry, self._inputs, self._outputs))
        except Exception as error:  # noqa: BLE001 - The next batch may be a better one.
            sheet.words[b.FAILED] += rows or 1
            if not self._said:
                self._said = True
                say(self._out, error)
        self._board.show(arm, sheet)
        self._unseen.discard(arm)

    def _compare(self, sheet: Sheet, taken: sample.Sample) -> None:
        self._desk[b.USED_NS] = time.process_time_ns()
        self._desk[b.SINCE_NS] = time.monotonic_ns()
        try:
            outputs, run_ns = self._run(taken)
        finally:
            self._desk[b.SINCE_NS] = 0
        for outlet in self._outlets:
            outlet.put(taken.feeds, dict(zip(self._names, outputs, strict=True)))
        if self._echo is not None and taken.keys is not None:
            self._echo.put(taken.keys, outputs)
        if any(outputs[at].shape != made.shape for at, made in taken.made):
            sheet.words[b.MISFIT] += taken.rows or 1
            return
        contrast = self._contrasts[taken.arm]
        for at, made in taken.made:
            if at < len(sheet.counts):
                contrast.count(sheet, at, made, outputs[at], rows=taken.rows > 0)
        sheet.words[b.ROWS] += taken.rows or 1
        sheet.words[b.LAST_NS] = time.monotonic_ns()
        if taken.whole:
            _time(sheet, taken.run_ns, run_ns)

    def _run(self, taken: sample.Sample) -> tuple[list[NDArray[Any]], int]:
        """Return the outputs, and the processor time that they took: by the clock, others ran in between."""
        # Only where all versions batch are there rows, and they may differ in how many they take at once.
        step = min(self._task.rows_max, taken.rows) if taken.rows else 0
        if step == taken.rows:
            began_ns = time.process_time_ns()
            return self._session.run(taken.feeds, self._stop), time.process_time_ns() - began_ns
        parts = []
        began_ns = time.process_time_ns()
        for start in range(0, taken.rows, step):
            feeds = {name: array[start : start + step] for name, array in taken.feeds.items()}
            parts.append(self._session.run(feeds, self._stop))
        run_ns = time.process_time_ns() - began_ns
        return [np.concatenate(part) for part in zip(*parts, strict=True)], run_ns


def _time(sheet: Sheet, primary_ns: int, shadow_ns: int) -> None:
    sheet.words[b.PRIMARY_NS] += primary_ns
    sheet.words[b.SHADOW_NS] += shadow_ns
    sheet.words[b.SLOWER] += shadow_ns > primary_ns
    sheet.durations[[0, 1], bins_ns(np.array([primary_ns, shadow_ns], np.int64))] += 1
