"""Which GPUs does this process see, by the names that NVML knows them by?

NVML counts all GPUs of a machine, in an order of its own; CUDA those that `CUDA_VISIBLE_DEVICES` leaves.
"""

from __future__ import annotations

import ctypes
from typing import Any
from uuid import UUID

from serving.device import gpus
from serving.gpu.driver import Uuid, _loaded


def uuids(library: Any = None) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs, without their prefix; those that tell none are left out.

    No context is made, which would take some of each GPU's memory.

    Raises
    ------
    DriverError
        If there is no driver.
    """
    count = gpus()
    driver = _loaded() if library is None and count else library
    found = []
    for number in range(count):
        device, made = ctypes.c_int(), Uuid()
        if driver.cuDeviceGet(ctypes.byref(device), number):
            continue
        if not driver.cuDeviceGetUuid_v2(ctypes.byref(made), device.value):
            found.append(str(UUID(bytes=bytes(made.bytes))))
    return tuple(found)
