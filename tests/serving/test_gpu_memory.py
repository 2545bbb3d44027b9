"""Is a version refused that does not fit, measured when it is loaded, and missed when it is not given back?"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import loader
from serving.device import NoDevice
from serving.gpu import driver as drivers
from serving.gpu import taken
from serving.gpu.driver import Driver, DriverError
from serving.gpu.kept import TOLD_BYTES, Kept, used_on_gpus
from serving.gpu.need import (
    REMEMBERED_MAX,
    WORKSPACE_BYTES,
    Need,
    NoRoom,
    Remembered,
    check_buffers,
    check_start,
    mebibytes,
    refusal,
)
from serving.gpu.providers import Wanted
from serving.gpu.settings import Gpu
from serving.gpu.taken import taking
from serving.model import Artifact
from tests.cuda import FakeCuda

MIB = 1 << 20
sizes = st.integers(0, 1 << 40)


@pytest.fixture
def gpu(monkeypatch):
    """Return the driver of a GPU with 1 GiB, which this process takes for its own."""
    side = Driver(0, FakeCuda(total=1 << 30))
    monkeypatch.setattr(drivers, "_OPENED", {0: side})
    monkeypatch.setattr(taken, "_REMEMBERED", Remembered())
    return side


def artifact(size: int, digest: str = "d") -> Artifact:
    return Artifact("m", 1, digest, Path("model.onnx"), size)


def allocate(side: Driver, size: int) -> int:
    return side.device_memory(size)


@given(needed=sizes, free=sizes, spare=sizes)
def test_what_is_let_in_leaves_the_spare_memory_free(needed, free, spare):
    let_in = not refusal(needed, "so much", free, Gpu(spare_bytes=spare))
    assert let_in == (free - needed >= spare)


@given(weights=sizes, seen=sizes)
def test_a_version_needs_no_less_than_its_weights(weights, seen):
    assert Need(weights, seen=seen).total >= weights
    assert Need(weights).total == weights + WORKSPACE_BYTES


@given(size=st.integers(0, 10 << 30))
def test_a_size_that_is_told_is_never_less_than_it_is(size):
    told = mebibytes(size)
    number, unit = told.split()
    assert unit in ("MiB", "GiB")
    assert float(number) * (1 << (30 if unit == "GiB" else 20)) >= size * (0.99 if unit == "GiB" else 1)


def test_a_version_that_would_not_fit_is_refused_with_what_it_needs_and_what_is_free(gpu):
    allocate(gpu, 300 * MIB)
    with pytest.raises(NoRoom) as told:
        check_start(gpu, Need(500 * MIB), Gpu(spare_bytes=100 * MIB))
    assert str(told.value) == (
        "GPU 0: it needs about 756 MiB: 500 MiB of weights and 256 MiB to run; 624 MiB are free beside the "
        "100 MiB of gpu.spare_bytes; unload another version first"
    )
    check_start(gpu, Need(368 * MIB), Gpu(spare_bytes=100 * MIB))


def test_buffers_that_would_not_fit_are_refused_with_what_makes_them_less(gpu):
    with pytest.raises(
        NoRoom, match="it needs 1025 MiB of buffers .* a smaller max_batch_size makes less; 1024"
    ):
        check_buffers(gpu, 1025 * MIB, Gpu(spare_bytes=0))


def test_what_a_version_took_is_what_it_is_expected_to_take_next_time(gpu):
    asked = Wanted(Gpu(spare_bytes=0))
    with taking(asked, artifact(10 * MIB)) as memory:
        address = allocate(gpu, 700 * MIB)
    assert memory == {"cuda:0": 700 * MIB}
    with (
        pytest.raises(NoRoom, match="it needs 700 MiB, as it took before; 324 MiB are free"),
        taking(asked, artifact(10 * MIB)),
    ):
        pytest.fail("it was begun")
    with taking(asked, artifact(10 * MIB, "other")):
        pass
    gpu.free(address)
    with taking(asked, artifact(10 * MIB)):  # The least that it ever took counts.
        allocate(gpu, 600 * MIB)
    with pytest.raises(NoRoom, match="it needs 600 MiB, as"), taking(asked, artifact(10 * MIB)):
        pytest.fail("it was begun")


def test_a_version_on_the_cpu_takes_nothing_of_a_gpu():
    with taking(None, artifact(1 << 50)) as memory:
        pass
    assert memory == {}


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    def absent(_gpu):
        raise DriverError("there is no CUDA driver: libcuda.so.1")

    monkeypatch.setattr(taken, "driver", absent)
    with (
        pytest.raises(NoDevice, match="GPU 3 cannot be used: there is no CUDA driver"),
        taking(Wanted(Gpu(), 3), artifact(1)),
    ):
        pytest.fail("it was begun")


def test_what_is_remembered_has_a_bound():
    remembered = Remembered()
    for key in range(REMEMBERED_MAX + 5):
        remembered.note(key, 1)
    assert [remembered.get(key) for key in (0, 4, 5, REMEMBERED_MAX + 4)] == [0, 0, 1, 1]


Life = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 1 << 33)), max_size=30)


@given(life=Life, own=sizes, libraries=sizes)
def test_a_process_whose_versions_give_all_back_is_never_worn(life, own, libraries):
    """But for what the first one brings along, which counts as its own and stays."""
    kept = Kept(libraries + 1)
    loaded: dict[int, tuple[int, int]] = {}
    used, brought = own, libraries
    for load, at, size in life:
        if load and at not in loaded:
            loaded[at], brought = (size, brought), 0
            used += sum(loaded[at])
        elif not load and at in loaded:
            used -= loaded.pop(at)[0]
            kept.look({"cpu": used}, [{"cpu": sum(each)} for each in loaded.values()])
    assert kept.worn == ""


@given(leaks=st.lists(st.integers(0, 100), min_size=1, max_size=40), limit=st.integers(1, 1000))
def test_a_process_is_worn_when_more_was_not_given_back_than_may_be(leaks, limit):
    kept = Kept(limit)
    used = 1000
    kept.look({"cpu": used}, [])
    for count, leak in enumerate(leaks, 1):
        used += leak
        assert kept.over({"cpu": used, "cuda:0": 5}, []) == (sum(leaks[:count]) > limit)
        kept.look({"cpu": used, "cuda:0": 5}, [])
        assert kept.bytes == {"cpu": sum(leaks[:count]), "cuda:0": 0}
        assert bool(kept.worn) == (sum(leaks[:count]) > limit)


def test_memory_that_comes_back_a_little_late_is_not_missing(monkeypatch):
    sizes = iter([100, 900, 900, 120])
    monkeypatch.setattr(loader, "LOOK_S", 0.0)
    monkeypatch.setattr(loader, "resident_bytes", lambda: next(sizes))
    kept = Kept(50)
    loader.settle(kept, [])
    loader.settle(kept, [])
    assert kept.worn == ""
    assert kept.bytes == {"cpu": 20}


def test_memory_that_does_not_come_back_is_missing_in_the_end(monkeypatch):
    sizes = iter([100, *[900] * loader.LOOKS_MAX])
    monkeypatch.setattr(loader, "LOOK_S", 0.0)
    monkeypatch.setattr(loader, "resident_bytes", lambda: next(sizes))
    kept = Kept(50)
    loader.settle(kept, [])
    loader.settle(kept, [])
    assert "left 1 MiB behind on cpu" in kept.worn


def test_a_process_may_be_told_never_to_be_worn():
    kept = Kept(0)
    kept.look({"cpu": 0}, [])
    kept.look({"cpu": 1 << 50}, [])
    assert kept.worn == ""


def test_what_is_missing_is_logged_with_its_number_and_not_again_and_again(caplog):
    kept = Kept(3 * TOLD_BYTES)
    for used in (0, TOLD_BYTES + 1, TOLD_BYTES + 2, TOLD_BYTES, 3 * TOLD_BYTES + 1, 3 * TOLD_BYTES + 9):
        kept.look({"cuda:1": used}, [])
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"event=memory_not_given_back device=cuda:1 bytes={TOLD_BYTES + 1}",
        f"event=memory_not_given_back device=cuda:1 bytes={3 * TOLD_BYTES + 1}",
        "event=worn_out reason='unloaded versions left 97 MiB behind on cuda:1; 96 MiB are allowed'",
    ]


def test_what_is_used_of_a_gpu_is_asked_of_its_driver_as_long_as_that_answers(gpu):
    assert used_on_gpus() == {"cuda:0": 0}
    allocate(gpu, 5 * MIB)
    assert used_on_gpus() == {"cuda:0": 5 * MIB}
    gpu._library.fails["cuMemGetInfo_v2"] = 700
    assert used_on_gpus() == {}
    assert gpu.lost


def test_a_process_that_lost_its_gpu_is_worn(gpu):
    kept = Kept(0)
    gpu._library.fails["cuEventSynchronize"] = 700
    with pytest.raises(DriverError):
        gpu.wait(gpu.event())
    assert kept.worn.startswith("GPU 0 is lost: cuEventSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS, an illegal")
