"""A CUDA driver made for tests: memory of its own, and streams that do their work only when somebody waits.

What is queued is done as late as CUDA permits: in the order of each stream, after the marks that it follows,
and of several streams that could go on, whichever `choose` says. So work that is missing an event is seen to
be done too early or too late.
"""

# ruff: noqa: N802 - they are the driver's names.

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.gpu.driver import IpcHandle

Choose = Callable[[int], int]
BASE = 0x7F0000000000
DIRTY_BYTES_MAX = 1 << 20
"""Of larger memory no more is touched, so that it costs none."""


class FakeCuda:
    """What `Driver` calls as its library. Each call is counted, and can be made to fail.

    Attributes
    ----------
    fails : dict
        Name of a call to the code that it returns from now on.
    """

    def __init__(self, total: int = 1 << 30, choose: Choose = lambda _count: 0) -> None:
        self.total = total
        self.choose = choose
        self.fails: dict[str, int] = {}
        self.calls: list[str] = []
        self.memory: dict[int, np.ndarray] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, deque[Callable[[], bool]]] = {}
        self.recorded: dict[int, int] = {}
        self.reached: dict[int, int] = {}
        self._next = BASE
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(type(self), f"_{name}", None)
        if function is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            with self._lock:
                self.calls.append(name)
                if code := self.fails.get(name, 0):
                    return code
                return function(self, *arguments) or 0

        return call

    @property
    def used(self) -> int:
        return sum(each.nbytes for each in self.memory.values())

    def queue(self, stream: int, work: Callable[[], object]) -> None:
        """Queue work of another kind, such as a kernel."""
        with self._lock:
            self.streams[stream].append(lambda: work() is not NotImplemented)

    def _handle(self) -> int:
        self._next += 1 << 24
        return self._next

    def _step(self) -> bool:
        """Do the first thing of one stream that can go on; say whether there was one."""
        waiting = [each for each in self.streams.values() if each]
        while waiting:
            stream = waiting.pop(self.choose(len(waiting)) % len(waiting))
            if stream[0]():
                stream.popleft()
                return True
        return False

    def _until(self, over: Callable[[], bool]) -> None:
        while not over():
            assert self._step(), "nothing that is queued can go on"

    def _cuInit(self, _flags):
        pass

    def _cuDeviceGet(self, device, gpu):
        device._obj.value = gpu

    def _cuDeviceGetUuid_v2(self, uuid, _device):
        uuid._obj.bytes[:] = list(range(16))

    def _cuDevicePrimaryCtxRetain(self, context, _device):
        context._obj.value = 7

    def _cuCtxSetCurrent(self, context):
        assert context == 7

    def _cuCtxPushCurrent_v2(self, context):
        assert context == 7

    def _cuCtxPopCurrent_v2(self, context):
        context._obj.value = 7

    def _cuThreadExchangeStreamCaptureMode(self, mode):
        assert mode._obj.value == 1

    def _cuMemGetInfo_v2(self, free, total):
        free._obj.value, total._obj.value = self.total - self.used, self.total

    def _cuMemAlloc_v2(self, address, size):
        if not size:
            return 1
        if size > self.total - self.used:
            return 2
        made = np.empty(size, np.uint8)
        made[:DIRTY_BYTES_MAX] = 0xA5  # Whoever reads what was never written sees that.
        address._obj.value = made.ctypes.data
        self.memory[made.ctypes.data] = made
        return 0

    def _cuMemFree_v2(self, address):
        del self.memory[address]

    def _cuMemHostAlloc(self, address, size, flags):
        assert flags == 1
        if not size:
            return 1
        made = ctypes.create_string_buffer(size)
        address._obj.value = ctypes.addressof(made)
        self.pinned[ctypes.addressof(made)] = made
        return 0

    def _cuMemFreeHost(self, address):
        del self.pinned[address]

    def _cuMemGetAddressRange_v2(self, base, size, address):
        start = next(at for at, each in self.memory.items() if at <= address < at + each.nbytes)
        base._obj.value, size._obj.value = start, self.memory[start].nbytes

    def _cuStreamCreate(self, stream, flags):
        assert flags == 1
        stream._obj.value = self._handle()
        self.streams[stream._obj.value] = deque()

    def _cuStreamDestroy_v2(self, stream):
        self._until(lambda: not self.streams[stream])
        del self.streams[stream]

    def _cuStreamSynchronize(self, stream):
        self._until(lambda: not self.streams[stream])

    def _cuEventCreate(self, event, flags):
        assert flags == 3
        event._obj.value = self._handle()
        self.recorded[event._obj.value] = self.reached[event._obj.value] = 0

    def _cuEventDestroy_v2(self, event):
        del self.recorded[event], self.reached[event]

    def _cuEventRecord(self, event, stream):
        self.recorded[event] += 1
        mark = self.recorded[event]

        def reach() -> bool:
            self.reached[event] = mark
            return True

        self.streams[stream].append(reach)

    def _cuStreamWaitEvent(self, stream, event, _flags):
        mark = self.recorded[event]
        self.streams[stream].append(lambda: self.reached[event] >= mark)

    def _cuEventSynchronize(self, event):
        mark = self.recorded[event]
        self._until(lambda: self.reached[event] >= mark)

    def _cuMemcpyHtoDAsync_v2(self, address, source, size, stream):
        self.queue(stream, lambda: ctypes.memmove(address, source, size))

    def _cuMemcpyDtoHAsync_v2(self, target, address, size, stream):
        self.queue(stream, lambda: ctypes.memmove(target, address, size))

    def _cuMemsetD8Async(self, address, value, size, stream):
        self.queue(stream, lambda: ctypes.memset(address, value, size))

    def _cuIpcGetMemHandle(self, handle, address):
        handle._obj.reserved[:8] = list(int(address).to_bytes(8, "little"))

    def _cuIpcOpenMemHandle_v2(self, address, handle, flags):
        assert flags == 1
        assert isinstance(handle, IpcHandle)
        at = int.from_bytes(bytes(handle)[:8], "little")
        if at not in self.memory:
            return 1
        address._obj.value = at
        return 0

    def _cuIpcCloseMemHandle(self, address):
        return 0 if address in self.memory else 1

    def _cuGetErrorName(self, code, text):
        names = {
            1: b"CUDA_ERROR_INVALID_VALUE",
            2: b"CUDA_ERROR_OUT_OF_MEMORY",
            700: b"CUDA_ERROR_ILLEGAL_ADDRESS",
        }
        if code not in names:
            return 1
        text._obj.value = names[code]
        return 0

    def _cuGetErrorString(self, code, text):
        text._obj.value = {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(
            code, b"bad"
        )
