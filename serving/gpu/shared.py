"""How do tensors come from a client's memory on a GPU, and get back there?

The client hands over a handle of its memory (CUDA's IPC); whoever opens it has the same memory, at an address
of its own. Inputs are copied to the host once, when the request arrives, outputs back before it is answered:
for the same reasons as in docs/decisions/015-shared-memory-is-copied.md.
"""

from __future__ import annotations

import base64
import binascii
import logging
import weakref
from typing import Any, Protocol

from serving.config import Config
from serving.device import gpus
from serving.errors import Failed, Invalid
from serving.expect import JsonObject, invalid, string, whole
from serving.gpu.driver import HANDLE_BYTES, DriverError, driver
from serving.shm.kinds import EXAMPLES, Entry, Kind, size_asked
from serving.wire import Window

log = logging.getLogger("turnout.gpu")


class Opens(Protocol):
    """What it takes of CUDA's driver. Any thread may call; a `DriverError` says what went wrong."""

    def open_ipc(self, handle: bytes) -> int:
        """Return the address of another process's memory. How often it was opened is counted."""

    def close_ipc(self, address: int) -> None:
        """Let go of it, once for each time that it was opened."""

    def size_from(self, address: int) -> int:
        """Return how many bytes there are from `address` to the end of its memory."""

    def read(self, address: int, into: memoryview) -> None:
        """Fill `into` from the GPU, and return when that is done."""

    def write(self, address: int, data: memoryview) -> None:
        """Put `data` onto the GPU, and return when that is done."""


class Region:
    """Memory of a client on a GPU, which stays open as long as anybody holds this."""

    __slots__ = ("__weakref__", "_address", "_driver", "entry")

    def __init__(self, driver: Opens, address: int, entry: Entry) -> None:
        self._driver = driver
        self._address = address
        self.entry = entry
        weakref.finalize(self, _close, driver, address, entry.name).atexit = False

    def __repr__(self) -> str:
        return f"<Region {self.entry.name}: {self.entry.size_bytes} bytes of GPU {self.entry.gpu}>"

    def read(self, window: Window, room: memoryview | None = None) -> bytes | memoryview:
        """Return what is in a window that was checked: a copy, in the slot `room` if there is one."""
        into = memoryview(bytearray(window.size_bytes)) if room is None else room
        try:
            if window.size_bytes:
                self._driver.read(self._address + window.offset, into)
        except DriverError as error:
            raise Failed(f"region {self.entry.name!r} cannot be read: {error}") from None
        return into

    def write(self, window: Window, data: memoryview) -> None:
        """Put `data` at the beginning of a window that was checked, and holds as much."""
        try:
            if data:
                self._driver.write(self._address + window.offset, data)
        except DriverError as error:
            raise Failed(f"region {self.entry.name!r} cannot be written: {error}") from None


class Handles:
    """Memory on GPUs, which clients hand over as `serving.shm.kinds.Source` has it."""

    def __init__(self, driver: Opens) -> None:
        self._driver = driver

    def asked(self, name: str, asked: JsonObject) -> Entry:
        """Return the region that a request asks to have registered."""
        size_bytes = size_asked(asked)
        gpu = whole({"device_id": None, **asked}, "device_id", "$")
        handle = asked.get("raw_handle")
        if not isinstance(handle, dict):
            raise invalid(f"expected an object as in {EXAMPLES[Kind.CUDA]}", "$.raw_handle")
        key = string(handle, "b64", "$.raw_handle")
        _decoded(key)
        return Entry(name, key, 0, size_bytes, gpu=gpu)

    def find(self, entry: Entry) -> Region:
        """Open the memory that is to be registered, all of which must be there.

        Raises
        ------
        Invalid
            If there is none behind the handle, or it is smaller.
        """
        region = self.find_again(entry)
        try:
            size_bytes = self._driver.size_from(region._address)
        except DriverError as error:
            raise Invalid(f"the memory of region {entry.name!r} cannot be measured: {error}") from None
        if entry.size_bytes > size_bytes:
            raise Invalid(f"the memory behind the handle has {size_bytes} bytes; {entry.size_bytes} is more")
        return region

    def find_again(self, entry: Entry) -> Region:
        """Open the memory behind a handle: CUDA gives it to no other, as might happen to a name."""
        try:
            return Region(self._driver, self._driver.open_ipc(_decoded(entry.key)), entry)
        except DriverError as error:
            raise Invalid(f"the handle of region {entry.name!r} cannot be opened: {error}") from None

    def shown(self, entry: Entry) -> dict[str, Any]:
        """Return what the status of a region says."""
        return {"name": entry.name, "device_id": entry.gpu, "byte_size": entry.size_bytes}


def handles(config: Config) -> Handles | None:
    """Return the memory on GPUs that this replica offers; None where it is not wanted, or there is no GPU."""
    if not config.shared_memory.cuda:
        return None
    if not gpus():
        log.warning("event=cuda_shared_memory_off reason='this replica sees no GPU'")
        return None
    try:
        return Handles(driver(0))
    except DriverError as error:
        log.warning("event=cuda_shared_memory_off reason=%r", str(error))
        return None


def _decoded(text: str) -> bytes:
    try:
        handle = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # The latter for what is not ASCII.
        handle = b""
    if len(handle) != HANDLE_BYTES:
        raise invalid(f"expected a handle of {HANDLE_BYTES} bytes in base64", "$.raw_handle.b64")
    return handle


def _close(driver: Opens, address: int, name: str) -> None:
    """Let go of memory. Any thread may be the last to hold a region, and nobody waits for what it says."""
    try:
        driver.close_ipc(address)
    except DriverError as error:
        log.warning("event=region_not_closed region=%s reason=%r", name, str(error))
