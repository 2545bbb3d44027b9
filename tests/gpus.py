"""GPUs that there are not: memory of clients behind handles, as CUDA's driver would open it, and NVML's word."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from serving.device import gpus
from serving.gpu.driver import HANDLE_BYTES, DriverError

GAP = 1 << 20
"""Between the addresses of two memories."""


class FakeDriver:
    """A `serving.gpu.shared.Opens`, which refuses whatever is not within the memory it means."""

    def __init__(self) -> None:
        self.memories: dict[bytes, bytearray] = {}
        self.opened: dict[int, int] = {}
        """How often each address was opened, less how often it was closed."""
        self.broken = ""
        """What every call says, if anything."""
        self.unwritable: int = 0
        """An address where nothing can be written."""
        self.closed_by: set[str] = set()

    def make(self, size_bytes: int) -> tuple[bytes, bytearray]:
        """Return the handle of a new memory, and the memory."""
        handle = len(self.memories).to_bytes(HANDLE_BYTES, "little")
        self.memories[handle] = bytearray(size_bytes)
        return handle, self.memories[handle]

    def open_ipc(self, handle: bytes) -> int:
        self._check()
        if handle not in self.memories:
            raise DriverError("invalid argument")
        address = (1 + list(self.memories).index(handle)) * GAP
        self.opened[address] = self.opened.get(address, 0) + 1
        return address

    def close_ipc(self, address: int) -> None:
        self._check()
        assert self.opened[address] > 0
        self.opened[address] -= 1
        self.closed_by.add(threading.current_thread().name)

    def size_from(self, address: int) -> int:
        return len(self._memory(address, 0)) - address % GAP

    def read(self, address: int, into: memoryview) -> None:
        memory = self._memory(address, len(into))
        into[:] = memory[address % GAP : address % GAP + len(into)]

    def write(self, address: int, data: memoryview) -> None:
        if address == self.unwritable:
            raise DriverError("the memory is gone")
        memory = self._memory(address, len(data))
        memory[address % GAP : address % GAP + len(data)] = data

    @property
    def held(self) -> int:
        """How many openings nobody has closed."""
        return sum(self.opened.values())

    def _memory(self, address: int, size_bytes: int) -> bytearray:
        self._check()
        start = address - address % GAP
        assert self.opened.get(start), "touched when it was not open"
        memory = list(self.memories.values())[start // GAP - 1]
        assert address - start + size_bytes <= len(memory), "touched beyond its end"
        return memory

    def _check(self) -> None:
        if self.broken:
            raise DriverError(self.broken)


class FakeNvml:
    """The functions of NVML that are used, of GPUs that say what they are told to.

    `said` is by UUID and the function's name without its beginning; an error code is raised, and what can
    be called is called.
    """

    def __init__(self, *uuids: str) -> None:
        self.said: dict[str, dict[str, Any]] = {
            uuid: {
                "UtilizationRates": SimpleNamespace(gpu=37, memory=12),
                "MemoryInfo": SimpleNamespace(total=80 << 30, used=3 << 30, free=77 << 30),
                "PowerUsage": 123_456,
                "PowerManagementLimit": 700_000,
                "TotalEnergyConsumption": 9_876_543_210,
            }
            for uuid in uuids
        }
        self.begun = 0
        self.refuses = 0
        self.calls = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name.
        if self.refuses:
            raise pynvml.NVMLError(self.refuses)
        self.begun += 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.said:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def __getattr__(self, name: str) -> Any:
        key = name.removeprefix("nvmlDeviceGet")
        if key == name:
            return getattr(pynvml, name)

        def get(uuid: str) -> Any:
            self.calls += 1
            said = self.said[uuid][key]
            if callable(said):
                return said()
            if isinstance(said, pynvml.NVMLError):
                raise said
            return said

        return get


NEEDS_GPU = pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU, and the CUDA driver shows none")
"""Beside the marker `gpu`, on tests that cannot do without."""
