"""Where is the memory that client and gateway share, on the host or on a GPU?"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from loadtests.bench.errors import BenchError

HOST = "127.0.0.1"
GPU = 0


class Region(Protocol):
    """Memory that a gateway knows by a name."""

    def register(self, client: Any, name: str) -> None:
        """Tell a gateway of it, by tritonclient."""

    def forget(self, client: Any, name: str) -> None:
        """Tell a gateway that it is over."""

    def write(self, offset: int, content: bytes) -> None:
        """Put something there."""

    def read(self, offset: int, size: int) -> bytes:
        """Return what is there."""

    def close(self) -> None:
        """Give it back."""


class System:
    """Memory of the host, as `shm_open` makes it."""

    def __init__(self, name: str, size: int) -> None:
        self._memory = SharedMemory(f"turnout-gpubench-{os.getpid()}-{name}", create=True, size=size)
        view = self._memory.buf
        assert view is not None, "it was opened just now"
        self._view, self._size = view, size

    def register(self, client: Any, name: str) -> None:
        """Tell a gateway of it."""
        client.register_system_shared_memory(name, f"/{self._memory.name}", self._size)

    def forget(self, client: Any, name: str) -> None:
        """Tell a gateway that it is over."""
        client.unregister_system_shared_memory(name)

    def write(self, offset: int, content: bytes) -> None:
        """Put something there."""
        self._view[offset : offset + len(content)] = content

    def read(self, offset: int, size: int) -> bytes:
        """Return what is there."""
        return bytes(self._view[offset : offset + size])

    def close(self) -> None:
        """Give it back."""
        self._view.release()
        self._memory.close()
        self._memory.unlink()


class Cuda:
    """Memory of a GPU, which other processes open by its handle. Never run on a GPU."""

    def __init__(self, _name: str, size: int) -> None:
        from serving.gpu.driver import Driver

        self._driver, self._size = Driver(GPU), size
        self._driver.enter()
        self._address = self._driver.device_memory(size)

    def register(self, client: Any, name: str) -> None:
        """Tell a gateway of it."""
        handle = base64.b64encode(self._driver.export_ipc(self._address))
        client.register_cuda_shared_memory(name, handle, GPU, self._size)

    def forget(self, client: Any, name: str) -> None:
        """Tell a gateway that it is over."""
        client.unregister_cuda_shared_memory(name)

    def write(self, offset: int, content: bytes) -> None:
        """Put something there."""
        self._driver.write(self._address + offset, content)

    def read(self, offset: int, size: int) -> bytes:
        """Return what is there."""
        content = bytearray(size)
        self._driver.read(self._address + offset, memoryview(content))
        return bytes(content)

    def close(self) -> None:
        """Give it back."""
        self._driver.free(self._address)


Make = Callable[[str, int], Region]


@contextlib.contextmanager
def registered(make: Make, name: str, size: int, port: int) -> Iterator[Region]:
    """Make a region, and let the gateway at `port` know it by `name` until the block ends.

    Raises
    ------
    BenchError
        If it cannot be made, or the gateway does not take it.
    """
    try:
        region = make(name, size)
    except (OSError, RuntimeError) as error:
        raise BenchError(f"no shared memory: {error}") from None
    with contextlib.closing(region), triton.InferenceServerClient(f"{HOST}:{port}") as client:
        try:
            region.register(client, name)
        except InferenceServerException as error:
            raise BenchError(f"a region was not registered: {error}") from None
        try:
            yield region
        finally:
            with contextlib.suppress(InferenceServerException, OSError):
                region.forget(client, name)
