"""How is the CUDA driver spoken to: memory, streams, events and copies of one GPU, each call checked?"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = "libcuda.so.1"
HANDLE_BYTES = 64
"""Of what a process gives another one so that it can open its memory (CU_IPC_HANDLE_SIZE)."""
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: a stream that does not wait for the default one."""
BLOCKING_SYNC, DISABLE_TIMING = 1, 2
"""CU_EVENT_*: whoever waits leaves the core to others, and no times are taken."""
PORTABLE = 1
"""CU_MEMHOSTALLOC_PORTABLE: pinned for every context."""
LAZY_PEER_ACCESS = 1
"""CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is."""
CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: graphs that other threads capture forbid this thread nothing."""
UNKNOWN = 999
LOST = frozenset({4, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 810, UNKNOWN})
"""Codes after which no call of this process works any more: a kernel that went wrong, a GPU that is gone."""


class IpcHandle(ctypes.Structure):
    """CUipcMemHandle, which is passed by value."""

    _fields_ = (("reserved", ctypes.c_ubyte * HANDLE_BYTES),)


class Uuid(ctypes.Structure):
    """CUuuid."""

    _fields_ = (("bytes", ctypes.c_ubyte * 16),)


CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetUuid_v2": (POINTER(Uuid), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuThreadExchangeStreamCaptureMode": (POINTER(c_int),),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemGetAddressRange_v2": (POINTER(c_uint64), POINTER(c_size_t), c_uint64),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemsetD8Async": (c_uint64, ctypes.c_ubyte, c_size_t, c_void_p),
    "cuIpcGetMemHandle": (POINTER(IpcHandle), c_uint64),
    "cuIpcOpenMemHandle_v2": (POINTER(c_uint64), IpcHandle, c_uint),
    "cuIpcCloseMemHandle": (c_uint64,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}
"""What is called, by the names that the library has, and what it takes; all return a CUresult."""


class DriverError(RuntimeError):
    """A call that the driver refused.

    Attributes
    ----------
    code : int
        Its CUresult; 0 if there is no driver that could have answered.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code

    @property
    def lost(self) -> bool:
        """Whether this process can do nothing more on its GPUs, whatever it tries."""
        return self.code in LOST


class Driver:
    """One GPU, through its primary context, which is the one that ONNX Runtime's CUDA provider uses as well.

    Addresses, streams and events are plain integers. Any thread may call. `wait`, `finish`, `read` and
    `write` block, and while they do the interpreter is free.

    Parameters
    ----------
    gpu : int
        As this process numbers them.
    library : object, optional
        What to call instead of the driver itself.

    Raises
    ------
    DriverError
        If there is no driver, or no such GPU.
    """

    kind = "cuda"
    """What ONNX Runtime calls memory of this kind."""

    def __init__(self, gpu: int = 0, library: Any = None) -> None:
        self.gpu = gpu
        self.lost = ""
        """Why nothing works any more, once that is so."""
        self._library = _loaded() if library is None else library
        self._thread = threading.local()
        self._call("cuInit", 0)
        self._device = self._made(c_int, "cuDeviceGet", gpu)
        self._context = self._made(c_void_p, "cuDevicePrimaryCtxRetain", self._device)
        self._side = self.stream()
        """For `read` and `write`, which wait for what they do and for nothing else."""

    def __repr__(self) -> str:
        return f"<Driver cuda:{self.gpu}{f' lost: {self.lost}' if self.lost else ''}>"

    def enter(self) -> None:
        """Make the GPU the one that this thread's calls are for. What needs it does it by itself."""
        self._call("cuCtxSetCurrent", self._context)
        self.stand_apart()

    @contextmanager
    def _visit(self) -> Iterator[None]:
        """Let the GPU be the thread's for a moment: for what the garbage collector calls, anywhere."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self.stand_apart()
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def stand_apart(self) -> None:
        """Let this thread have nothing to do with graphs that others capture meanwhile.

        While one thread captures, which ONNX Runtime does for the whole process, calls of threads that did
        not say this are refused, and end the capture.
        """
        if not getattr(self._thread, "apart", False):
            mode = c_int(CAPTURE_THREAD_LOCAL)
            self._call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
            self._thread.apart = True

    def uuid(self) -> str:
        """Return what NVML knows the GPU by."""
        made = Uuid()
        self._call("cuDeviceGetUuid_v2", ctypes.byref(made), self._device)
        digits = bytes(made.bytes).hex()
        return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def mem_info(self) -> tuple[int, int]:
        """Return how many bytes of the GPU are free, and how many there are; others use it as well."""
        self.enter()
        free, total = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def device_memory(self, size: int) -> int:
        """Return the address of so many bytes on the GPU."""
        self.enter()
        return int(self._made(c_uint64, "cuMemAlloc_v2", size))

    def free(self, address: int) -> None:
        """Give memory of the GPU back."""
        self.enter()
        self._call("cuMemFree_v2", address)

    def host_memory(self, size: int) -> NDArray[np.uint8]:
        """Return so many bytes that the GPU reads and writes by itself; given back with their last view."""
        self.enter()
        address = self._made(c_void_p, "cuMemHostAlloc", size, PORTABLE)
        block = (ctypes.c_ubyte * size).from_address(address)
        weakref.finalize(block, self._free_host, address).atexit = False
        return np.frombuffer(memoryview(block), np.uint8)

    def _free_host(self, address: int) -> None:
        # Whoever was the last to hold it cannot do anything about an error.
        with suppress(DriverError), self._visit():
            self._call("cuMemFreeHost", address)

    def stream(self) -> int:
        """Return a new queue of work."""
        self.enter()
        return int(self._made(c_void_p, "cuStreamCreate", NON_BLOCKING))

    def end_stream(self, stream: int) -> None:
        """Give a stream back once its work is done."""
        with self._visit():
            self._call("cuStreamDestroy_v2", stream)

    def event(self) -> int:
        """Return a new mark that can be put into a stream and waited for."""
        self.enter()
        return int(self._made(c_void_p, "cuEventCreate", BLOCKING_SYNC | DISABLE_TIMING))

    def end_event(self, event: int) -> None:
        """Give an event back."""
        self.enter()
        self._call("cuEventDestroy_v2", event)

    def copy_in(self, address: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from pinned memory at `source` to the GPU. Like all that queues, after `enter`."""
        self._call("cuMemcpyHtoDAsync_v2", address, source, size, stream)

    def copy_out(self, target: int, address: int, size: int, stream: int) -> None:
        """Queue a copy from the GPU to pinned memory at `target`."""
        self._call("cuMemcpyDtoHAsync_v2", target, address, size, stream)

    def zero(self, address: int, size: int, stream: int) -> None:
        """Queue that so many bytes of the GPU become 0."""
        self._call("cuMemsetD8Async", address, 0, size, stream)

    def record(self, event: int, stream: int) -> None:
        """Mark the end of what is in a stream by now."""
        self._call("cuEventRecord", event, stream)

    def follow(self, stream: int, event: int) -> None:
        """Let what comes into a stream from now on wait for an event's latest mark."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def wait(self, event: int) -> None:
        """Block until an event's latest mark is reached; the core is left to others meanwhile."""
        self.enter()
        self._call("cuEventSynchronize", event)

    def finish(self, stream: int) -> None:
        """Block until a stream is empty."""
        self.enter()
        self._call("cuStreamSynchronize", stream)

    def export_ipc(self, address: int) -> bytes:
        """Return what another process opens this memory with."""
        self.enter()
        handle = IpcHandle()
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), address)
        return bytes(handle)

    def open_ipc(self, handle: bytes) -> int:
        """Return the address of another process's memory.

        Raises
        ------
        ValueError
            If it has not the size of a handle.
        DriverError
            If it is none, or of this process, or of another GPU.
        """
        if len(handle) != HANDLE_BYTES:
            raise ValueError(f"a CUDA IPC handle has {HANDLE_BYTES} bytes, this has {len(handle)}")
        self.enter()
        given = IpcHandle.from_buffer_copy(handle)
        return int(self._made(c_uint64, "cuIpcOpenMemHandle_v2", given, LAZY_PEER_ACCESS))

    def close_ipc(self, address: int) -> None:
        """Let go of another process's memory."""
        with self._visit():
            self._call("cuIpcCloseMemHandle", address)

    def size_from(self, address: int) -> int:
        """Return how many bytes there are from `address` to the end of what was allocated with it."""
        self.enter()
        base, size = c_uint64(), c_size_t()
        self._call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), address)
        return base.value + size.value - address

    def read(self, address: int, into: memoryview) -> None:
        """Fill `into` from the GPU, and return when it is full."""
        if into.nbytes:
            self.enter()
            self.copy_out(_address(into), address, into.nbytes, self._side)
            self.finish(self._side)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Put `data` onto the GPU, and return when it is there."""
        view = memoryview(data)
        if view.nbytes:
            self.enter()
            self.copy_in(address, _address(view), view.nbytes, self._side)
            self.finish(self._side)

    def _made(self, form: type[Any], name: str, *arguments: Any) -> Any:
        """Return what a call puts where its first argument points."""
        made = form()
        self._call(name, ctypes.byref(made), *arguments)
        return made.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            error = DriverError(f"{name}: {self._words(code)}", code)
            # A handle is a client's: what the driver makes of a bad one is no word about the GPU.
            if error.lost and not (code == UNKNOWN and name.startswith("cuIpc")):
                self.lost = self.lost or str(error)
            raise error

    def _words(self, code: int) -> str:
        return f"{self._word('cuGetErrorName', code)}, {self._word('cuGetErrorString', code)}"

    def _word(self, name: str, code: int) -> str:
        text = c_char_p()
        answer = getattr(self._library, name)(code, ctypes.byref(text))
        return f"error {code}" if answer or not text.value else text.value.decode(errors="replace")


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def _loaded() -> Any:
    """Return the driver's library, with each call's types set.

    Raises
    ------
    DriverError
        If it is not there, or too old.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DriverError(f"there is no CUDA driver: {error}") from None
    for name, takes in CALLS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise DriverError(f"the CUDA driver has no {name}: it is too old") from None
        function.argtypes, function.restype = takes, c_int
    return library


_OPENED: dict[int, Driver] = {}
_OPENING = threading.Lock()


def driver(gpu: int) -> Driver:
    """Return the driver of a GPU of this process, made once; raises as it does."""
    with _OPENING:
        if gpu not in _OPENED:
            _OPENED[gpu] = Driver(gpu)
        return _OPENED[gpu]


def opened() -> list[Driver]:
    """Return the drivers of the GPUs that this process has had to do with."""
    return list(_OPENED.values())


def lost() -> str:
    """Return why one of these GPUs is of no use to this process any more; empty if that is not so."""
    return next((f"GPU {each.gpu} is lost: {each.lost}" for each in opened() if each.lost), "")
