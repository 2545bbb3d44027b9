"""What does a version need of a device: memory there, and queues of what is done with it?

A GPU has it through its driver. The processor can be taken for a device too, whose queues are never behind.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Side(Protocol):
    """A device's memory and queues: `serving.gpu.driver.Driver`, or `Host`."""

    @property
    def kind(self) -> str:
        """What ONNX Runtime calls it."""

    @property
    def gpu(self) -> int:
        """Which one of its kind."""

    def enter(self) -> None:
        """Make it the one that this thread's calls are for."""

    def host_memory(self, size: int) -> NDArray[np.uint8]:
        """Return bytes of the host that it reads and writes by itself."""

    def device_memory(self, size: int) -> int:
        """Return the address of bytes of its own."""

    def free(self, address: int) -> None:
        """Give its own bytes back."""

    def stream(self) -> int:
        """Return a new queue."""

    def end_stream(self, stream: int) -> None:
        """Give a queue back."""

    def event(self) -> int:
        """Return a mark that can be put into queues."""

    def end_event(self, event: int) -> None:
        """Give a mark back."""

    def copy_in(self, address: int, source: int, size: int, stream: int) -> None:
        """Queue a copy to it."""

    def copy_out(self, target: int, address: int, size: int, stream: int) -> None:
        """Queue a copy from it."""

    def zero(self, address: int, size: int, stream: int) -> None:
        """Queue that bytes become 0."""

    def record(self, event: int, stream: int) -> None:
        """Mark the end of what is queued."""

    def follow(self, stream: int, event: int) -> None:
        """Let what is queued from now on wait for a mark."""

    def wait(self, event: int) -> None:
        """Block until a mark is reached."""

    def finish(self, stream: int) -> None:
        """Block until a queue is empty."""


class Host:
    """The processor, taken for a device: what is queued is done at once."""

    kind, gpu = "cpu", 0

    def __init__(self) -> None:
        self._memory: dict[int, NDArray[np.uint8]] = {}

    def enter(self) -> None:
        """Nothing to do: there is one."""

    def host_memory(self, size: int) -> NDArray[np.uint8]:
        """Return bytes."""
        return np.zeros(size, np.uint8)

    def device_memory(self, size: int) -> int:
        """Return the address of other bytes."""
        made = np.zeros(size, np.uint8)
        self._memory[made.ctypes.data] = made
        return made.ctypes.data

    def free(self, address: int) -> None:
        """Forget bytes."""
        del self._memory[address]

    @property
    def held_bytes(self) -> int:
        """How much was taken and not given back."""
        return sum(each.nbytes for each in self._memory.values())

    def stream(self) -> int:
        """Return a queue that is always empty."""
        return 0

    def end_stream(self, stream: int) -> None:
        """Nothing was taken."""

    event = stream
    end_event = finish = wait = end_stream

    def copy_in(self, address: int, source: int, size: int, stream: int) -> None:  # noqa: ARG002
        """Copy."""
        ctypes.memmove(address, source, size)

    copy_out = copy_in

    def zero(self, address: int, size: int, stream: int) -> None:  # noqa: ARG002
        """Clear."""
        ctypes.memset(address, 0, size)

    def record(self, event: int, stream: int) -> None:
        """Nothing is behind."""

    follow = record
