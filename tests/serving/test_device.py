"""Where does a model run: never elsewhere than it was told, and on the GPU only where there is one."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import device
from serving.device import NoDevice, choose, gpus
from serving.model import Device


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Count anew in each test."""
    gpus.cache_clear()
    yield
    gpus.cache_clear()


class Driver:
    """A CUDA driver that shows `count` devices, or gives an error code instead."""

    def __init__(self, count: int, error: int = 0) -> None:
        self._count, self._error = count, error

    def __call__(self, name: str) -> Driver:
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, _flags: int) -> int:  # noqa: N802 - the driver's name.
        return self._error

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self._count  # type: ignore[arg-type]
        return 0


@given(asked=st.sampled_from(list(Device)), available=st.integers(0, 8))
def test_the_choice_is_a_device_that_is_there_and_what_was_asked_for(asked, available):
    try:
        chosen = choose(asked, available)
    except NoDevice:
        assert asked is Device.GPU and available == 0
    else:
        assert chosen is (asked if asked is not Device.AUTO else Device.GPU if available else Device.CPU)


def test_a_gpu_that_is_not_there_is_an_error_that_says_what_would_work():
    with pytest.raises(NoDevice, match='this machine shows none; device = "auto" would use the CPU'):
        choose(Device.GPU, 0)


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch):
    def absent(_name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(device.ctypes, "CDLL", absent)
    assert gpus() == 0


@pytest.mark.parametrize(("driver", "count"), [(Driver(2), 2), (Driver(0), 0), (Driver(2, error=100), 0)])
def test_gpus_are_those_that_the_driver_shows(monkeypatch, driver, count):
    monkeypatch.setattr(device.ctypes, "CDLL", driver)
    assert gpus() == count


def test_this_machine_can_be_asked():
    assert gpus() >= 0
