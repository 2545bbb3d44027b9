"""Which device a model runs on: the GPU where there is one, and never a silent fall-back."""

from __future__ import annotations

import ctypes
from functools import cache

from serving.model import Device


class NoDevice(RuntimeError):
    """The configuration asks for a device that is not there."""


@cache
def gpus() -> int:
    """Count the GPUs that the CUDA driver shows to this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def choose(asked: Device, available: int) -> Device:
    """Return CPU or GPU for what the configuration `asked` for, with so many GPUs `available`.

    Raises
    ------
    NoDevice
        If a GPU is asked for and there is none.
    """
    if asked is Device.GPU and available == 0:
        raise NoDevice('a GPU is asked for, but this machine shows none; device = "auto" would use the CPU')
    if asked is Device.AUTO:
        return Device.GPU if available else Device.CPU
    return asked
