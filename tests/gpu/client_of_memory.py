"""A client with memory on a GPU, in a process of its own: CUDA opens no handle in the process that made it.

    python -m tests.gpu.client_of_memory KIND HTTP GRPC

KIND is `tritonclient`, for its utilities, which need the package cuda-python, or `driver` for ours. Prints
`right` if all came back as it was; ends with `MISSING` where the utilities cannot be had.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

MISSING = 77
SIZES = (4096, 4 << 20)
"""One that CUDA cuts out of a larger piece, and one of its own."""
OFFSET = 256


class Utilities:
    """Memory as tritonclient's users make it."""

    def __init__(self, size_bytes: int) -> None:
        try:
            from tritonclient.utils import cuda_shared_memory as shm
        except RuntimeError as missing:
            print(missing)
            sys.exit(MISSING)
        self._shm = shm
        self._region = shm.create_shared_memory_region("made", size_bytes, 0)
        self.handle = shm.get_raw_handle(self._region)

    def fill(self, content: np.ndarray[Any, Any]) -> None:
        self._shm.set_shared_memory_region(self._region, [content])

    def content(self, size_bytes: int) -> np.ndarray[Any, Any]:
        got: np.ndarray[Any, Any] = self._shm.get_contents_as_numpy(self._region, np.uint8, [size_bytes])
        return got


class Ours:
    """Memory through the server's own driver."""

    def __init__(self, size_bytes: int) -> None:
        from serving.gpu.driver import driver

        self._driver = driver(0)
        self._address = self._driver.device_memory(size_bytes)
        self.handle = base64.b64encode(self._driver.export_ipc(self._address))

    def fill(self, content: np.ndarray[Any, Any]) -> None:
        self._driver.write(self._address, content.view(np.uint8).data)

    def content(self, size_bytes: int) -> np.ndarray[Any, Any]:
        room = np.empty(size_bytes, np.uint8)
        self._driver.read(self._address, room.data)
        return room


def converse(module: Any, at: str, kind: Any, size_bytes: int) -> None:
    """Send an input through memory, and get the output there."""
    x = np.random.default_rng(size_bytes).standard_normal((2, size_bytes // 16)).astype(np.float32)
    given, got = kind(size_bytes), kind(size_bytes)
    given.fill(x)
    got.fill(np.zeros(size_bytes, np.uint8))
    with module.InferenceServerClient(at) as client:
        for name, memory in (("in", given), ("out", got)):
            client.register_cuda_shared_memory(name, memory.handle, 0, size_bytes)
        pixels = module.InferInput("x", list(x.shape), "FP32")
        pixels.set_shared_memory("in", x.nbytes)
        wanted = module.InferRequestedOutput("y")
        wanted.set_shared_memory("out", x.nbytes, OFFSET)
        client.infer("echo", [pixels], outputs=[wanted])
        client.unregister_cuda_shared_memory()
    whole = got.content(size_bytes)
    assert not whole[:OFFSET].any()
    assert whole[OFFSET : OFFSET + x.nbytes].tobytes() == x.tobytes()


def main() -> None:
    """Do it over both protocols."""
    kind, http, rpc = sys.argv[1:]
    for size_bytes in SIZES:
        for module, at in ((tritonclient.http, http), (tritonclient.grpc, rpc)):
            converse(module, at, Utilities if kind == "tritonclient" else Ours, size_bytes)
    print("right")


if __name__ == "__main__":
    main()
