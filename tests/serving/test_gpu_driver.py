"""Is the CUDA driver called as it wants to be, and is each of its refusals an error in words?"""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gpu.driver import CALLS, HANDLE_BYTES, LOST, UNKNOWN, Driver, DriverError
from tests.cuda import FakeCuda

TELLING = {"cuGetErrorName", "cuGetErrorString"}
FIRST = {"cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuStreamCreate"}


def all_of_it(library: FakeCuda) -> bytes:
    """Call everything that there is, and return what came back from the device."""
    driver = Driver(0, library)
    driver.uuid()
    driver.mem_info()
    pinned = driver.host_memory(8)
    pinned[:] = range(8)
    address = driver.device_memory(8)
    stream, event = driver.stream(), driver.event()
    driver.copy_in(address, pinned.ctypes.data, 8, stream)
    driver.zero(address, 1, stream)
    driver.record(event, stream)
    driver.follow(stream, event)
    driver.wait(event)
    driver.copy_out(pinned.ctypes.data, address, 8, stream)
    driver.finish(stream)
    opened = driver.open_ipc(driver.export_ipc(address))
    driver.size_from(opened)
    driver.write(opened, b"\x09")
    into = bytearray(8)
    driver.read(opened, memoryview(into))
    driver.close_ipc(opened)
    driver.end_event(event)
    driver.end_stream(stream)
    driver.free(address)
    del pinned
    return bytes(into)


def test_what_is_put_on_the_device_comes_back():
    library = FakeCuda()
    assert all_of_it(library) == bytes([9, 1, 2, 3, 4, 5, 6, 7])
    assert {*library.calls, *TELLING} == set(CALLS)
    assert library.used == 0
    assert not library.pinned


@pytest.mark.parametrize("name", sorted(set(CALLS) - TELLING - {"cuMemFreeHost"}))
def test_a_call_that_is_refused_says_which_and_why(name):
    library = FakeCuda()
    library.fails[name] = 2
    with pytest.raises(DriverError, match=f"{name}: CUDA_ERROR_OUT_OF_MEMORY, out of memory") as caught:
        all_of_it(library)
    assert caught.value.code == 2
    assert not caught.value.lost


def test_a_code_without_a_name_is_told_by_its_number():
    library = FakeCuda()
    library.fails["cuMemGetInfo_v2"] = 4242
    with pytest.raises(DriverError, match="cuMemGetInfo_v2: error 4242, bad"):
        Driver(0, library).mem_info()


@given(st.integers(1, 1000))
def test_a_driver_knows_for_good_that_its_gpu_is_lost(code):
    library = FakeCuda()
    driver = Driver(0, library)
    library.fails["cuEventSynchronize"] = code
    with pytest.raises(DriverError):
        driver.wait(driver.event())
    assert bool(driver.lost) == (code in LOST)
    assert ("lost" in repr(driver)) == (code in LOST)


def test_what_is_made_of_a_client_s_handle_is_no_word_about_the_gpu():
    library = FakeCuda()
    driver = Driver(0, library)
    library.fails["cuIpcOpenMemHandle_v2"] = UNKNOWN
    with pytest.raises(DriverError):
        driver.open_ipc(bytes(HANDLE_BYTES))
    assert not driver.lost
    library.fails["cuIpcOpenMemHandle_v2"] = 700
    with pytest.raises(DriverError):
        driver.open_ipc(bytes(HANDLE_BYTES))
    assert driver.lost


def test_what_the_garbage_collector_gives_back_leaves_a_thread_its_gpu():
    library = FakeCuda()
    driver = Driver(0, library)
    memory, stream = driver.host_memory(8), driver.stream()
    library.calls.clear()
    del memory
    driver.end_stream(stream)
    assert library.calls.count("cuCtxPushCurrent_v2") == library.calls.count("cuCtxPopCurrent_v2") == 2
    assert "cuCtxSetCurrent" not in library.calls


def test_no_driver_is_an_error_in_words(monkeypatch):
    def absent(_name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("serving.gpu.driver.ctypes.CDLL", absent)
    with pytest.raises(DriverError, match="there is no CUDA driver: libcuda.so.1"):
        Driver()


def test_a_driver_that_lacks_a_call_is_too_old(monkeypatch):
    monkeypatch.setattr("serving.gpu.driver.ctypes.CDLL", lambda _name: object())
    with pytest.raises(DriverError, match="the CUDA driver has no cuInit: it is too old"):
        Driver()


def test_pinned_memory_lives_as_long_as_any_view_of_it():
    library = FakeCuda()
    driver = Driver(0, library)
    view = driver.host_memory(16).view(np.float32).reshape(2, 2)[1:]
    gc.collect()
    assert len(library.pinned) == 1
    view[:] = 1
    del view
    assert not library.pinned


def test_every_thread_is_told_once_that_captures_of_others_do_not_concern_it():
    library = FakeCuda()
    driver = Driver(0, library)

    def use() -> None:
        driver.mem_info()
        driver.mem_info()

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert library.calls.count("cuThreadExchangeStreamCaptureMode") == 4  # Whoever made it is one more.


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_handle_of_another_size_is_none(size):
    with pytest.raises(ValueError, match=f"has 64 bytes, this has {size}"):
        Driver(0, FakeCuda()).open_ipc(bytes(size))


def test_a_handle_that_leads_nowhere_is_refused():
    with pytest.raises(DriverError, match="cuIpcOpenMemHandle_v2: CUDA_ERROR_INVALID_VALUE"):
        Driver(0, FakeCuda()).open_ipc(bytes(64))


def test_what_is_behind_an_address_is_measured_to_the_end_of_its_memory():
    driver = Driver(0, FakeCuda())
    assert driver.size_from(driver.device_memory(100) + 30) == 70


def test_the_uuid_is_spelt_as_nvml_spells_it():
    assert Driver(0, FakeCuda()).uuid() == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_nothing_to_read_or_write_is_no_call():
    library = FakeCuda()
    driver = Driver(0, library)
    before = len(library.calls)
    driver.read(0, memoryview(bytearray()))
    driver.write(0, b"")
    assert len(library.calls) == before
