"""Do the GPUs' metrics say what NVML says, and never hold up or break a scrape?"""

from __future__ import annotations

import ctypes
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import listen_metrics, metrics, peers
from serving.config import Config, parse
from serving.family import Of
from serving.gpu import nvml, visible
from serving.gpu.families import FAMILIES
from serving.gpu.nvml import Meter
from serving.gpu.reading import GpuReading
from serving.gpu.visible import uuids
from serving.metrics import Reading, VersionReading
from tests.gpus import FakeNvml
from tests.models import identity, place
from tests.running import Running

ONE, TWO = "f1f0e3c4-0000-4000-8000-000000000001", "f1f0e3c4-0000-4000-8000-000000000002"
LONG_S = 30.0
"""How long a test waits for what comes at once."""


def meter(fake: FakeNvml, *named: str, answer_s_max: float = LONG_S) -> Meter:
    return Meter(fake, lambda: named, answer_s_max)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_triton_s_names_are_exactly_triton_s_in_either_format(accept):
    asked = meter(FakeNvml(f"GPU-{ONE}"), ONE)
    text = listen_metrics.expose(metrics.registry(lambda: Reading(gpus=asked.read())), accept)[0].decode()
    got = {
        name: float(value)
        for name, value in re.findall(rf'^(nv_\w+){{gpu_uuid="GPU-{ONE}"}} (\S+)$', text, re.MULTILINE)
    }
    assert got == {
        "nv_gpu_utilization": 0.37,
        "nv_gpu_memory_total_bytes": 80 << 30,
        "nv_gpu_memory_used_bytes": 3 << 30,
        "nv_gpu_power_usage": 123.456,
        "nv_gpu_power_limit": 700,
        "nv_energy_consumption": 9_876_543.21,
    }
    kind = "unknown" if accept else "counter"
    assert f"# TYPE nv_energy_consumption {kind}\n" in text
    assert {each.name for each in FAMILIES if each.of is Of.GPU} == set(got)


def test_gpus_that_this_process_does_not_see_are_not_shown():
    assert [*meter(FakeNvml(f"GPU-{ONE}", f"GPU-{TWO}"), TWO).read()] == [f"GPU-{TWO}"]


def test_what_a_gpu_does_not_tell_is_left_out_and_the_rest_is_shown():
    fake = FakeNvml(f"MIG-{ONE}")
    for name, code in (
        ("UtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED),
        ("PowerUsage", pynvml.NVML_ERROR_INVALID_ARGUMENT),
        ("PowerManagementLimit", pynvml.NVML_ERROR_NO_PERMISSION),
        ("TotalEnergyConsumption", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    ):
        fake.said[f"MIG-{ONE}"][name] = pynvml.NVMLError(code)
    asked = meter(fake, ONE)
    assert asked.read() == {f"MIG-{ONE}": GpuReading(None, 80 << 30, 3 << 30)}
    text = listen_metrics.expose(metrics.registry(lambda: Reading(gpus=asked.read())))[0].decode()
    assert len(re.findall(r"^nv_(?:gpu|energy)_\w+{", text, re.MULTILINE)) == 2


def test_a_gpu_that_is_lost_is_said_once_and_hides_no_other(caplog):
    caplog.set_level("INFO", "turnout.gpu")
    fake = FakeNvml(f"GPU-{ONE}", f"GPU-{TWO}")
    asked = meter(fake, ONE, TWO)
    assert len(asked.read()) == 2
    fake.said[f"GPU-{ONE}"]["PowerUsage"] = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    for _ in range(3):
        assert [*asked.read()] == [f"GPU-{TWO}"]
    assert caplog.text.count(f"event=gpu_silent gpu_uuid={ONE} reason='GPU is lost'") == 1
    fake.said[f"GPU-{ONE}"]["PowerUsage"] = 0
    assert asked.read()[f"GPU-{ONE}"].power_w == 0
    assert caplog.text.count(f"event=gpu_speaks gpu_uuid={ONE}") == 1


def test_a_library_that_does_not_start_is_said_once_and_tried_again(caplog):
    fake = FakeNvml(f"GPU-{ONE}")
    fake.refuses = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    asked = meter(fake, ONE)
    assert asked.read() == asked.read() == {}
    assert caplog.text.count("event=gpu_silent gpu_uuid=all") == 1 and "mismatch" in caplog.text
    fake.refuses = 0
    assert len(asked.read()) == len(asked.read()) == 1
    assert fake.begun == 1


def test_a_fault_of_ours_is_logged_and_breaks_no_scrape(caplog):
    fake = FakeNvml(f"GPU-{ONE}")
    del fake.said[f"GPU-{ONE}"]["PowerUsage"]
    assert meter(fake, ONE).read() == {}
    assert "event=gpus_not_read" in caplog.text


def eventually(there: Callable[[], object]) -> None:
    until_s = time.monotonic() + LONG_S
    while not there() and time.monotonic() < until_s:
        time.sleep(0.001)


class Hanging(FakeNvml):
    """A GPU that does not answer until it may."""

    def __init__(self) -> None:
        super().__init__(f"GPU-{ONE}")
        self.may = threading.Event()
        self.said[f"GPU-{ONE}"]["PowerUsage"] = self._answer
        self.asked = 0

    def _answer(self) -> int:
        self.asked += 1
        self.may.wait(LONG_S)
        return 1000


def test_a_gpu_that_does_not_answer_holds_up_nobody_and_is_asked_by_one_thread(caplog):
    fake = Hanging()
    asked = meter(fake, ONE, answer_s_max=0.05)
    said: list[Any] = []
    readers = [threading.Thread(target=lambda: said.append(asked.read())) for _ in range(8)]
    for each in readers:
        each.start()
    for each in readers:
        each.join(LONG_S)
    assert said == [{}] * 8 and asked.read() == {}
    eventually(lambda: fake.asked)
    assert fake.asked == 1 and not asked.ask().done()
    assert caplog.text.count("event=gpu_silent gpu_uuid=all reason='no answer within 0.05 s'") == 1
    fake.may.set()
    asked.ask().result(LONG_S)
    fresh = Meter(fake, lambda: (ONE,), LONG_S)
    assert fresh.read()[f"GPU-{ONE}"].power_w == 1


def test_whoever_comes_while_gpus_are_asked_gets_the_same_answer():
    fake = Hanging()
    asked = meter(fake, ONE)
    said: list[Any] = []
    readers = [threading.Thread(target=lambda: said.append(asked.read())) for _ in range(8)]
    for each in readers:
        each.start()
    eventually(lambda: fake.asked)
    fake.may.set()
    for each in readers:
        each.join(LONG_S)
    assert len(said) == 8 and all(each[f"GPU-{ONE}"].power_w == 1 for each in said)


numbers = st.none() | st.integers(0, 10**12)
readings = st.builds(GpuReading, numbers, numbers, numbers, numbers, numbers, numbers)


@given(readings, readings, readings)
def test_replicas_that_share_a_gpu_show_it_once_in_whatever_order_they_answer(one, two, three):
    assert one + one == one
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    node = Reading(gpus={"GPU-a": one}) + Reading(gpus={"GPU-a": two, "GPU-b": three})
    assert node.gpus == {"GPU-a": one + two, "GPU-b": three}
    assert Reading.from_json(orjson.loads(orjson.dumps(node.to_json()))) == node


def test_nothing_of_a_gpu_is_kept_of_a_replica_that_is_gone():
    last = Reading({("m", "1"): VersionReading()}, gpus={"GPU-a": GpuReading(energy_j=7)})
    assert peers.counters(last).gpus == {}
    assert peers.Merged().plus({"one": last}).reading.gpus == {}


class Library:
    """A CUDA driver with GPUs of these UUIDs, of which an empty one tells none."""

    def __init__(self, *found: str) -> None:
        self._found = found

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802 - the driver's name.
        ctypes.cast(device, ctypes.POINTER(ctypes.c_int))[0] = 10 + number  # type: ignore[arg-type]
        return 0

    def cuDeviceGetUuid_v2(self, made: Any, device: int) -> int:  # noqa: N802
        found = self._found[device - 10]
        if not found:
            return 801
        ctypes.memmove(made, UUID(found).bytes, 16)
        return 0


def test_the_gpus_are_those_that_cuda_shows_in_its_order(monkeypatch):
    monkeypatch.setattr(visible, "gpus", lambda: 3)
    assert uuids(Library(TWO, "", ONE)) == (TWO, ONE)
    monkeypatch.setattr(visible, "gpus", lambda: 0)
    assert uuids() == ()


def test_nobody_is_asked_where_no_gpu_is_used(monkeypatch):
    monkeypatch.setattr(nvml, "gpus", lambda: 0)
    assert nvml.meter(Config()) is None
    monkeypatch.setattr(nvml, "gpus", lambda: 1)
    assert nvml.meter(parse({"engine": {"device": "cpu"}})) is None
    assert nvml.meter(parse({"metrics": {"enabled": False}})) is None


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    place(tmp_path / "models", "echo", 1, identity("FP32"))
    with Running(tmp_path / "models", tmp_path / "state", {"engine": {"device": "cpu"}}) as running:
        yield running


def test_a_gateway_shows_its_gpus_and_its_own_numbers_without_them(gateway):
    def scrape() -> str:
        with urllib.request.urlopen(f"http://{gateway.metrics}/metrics", timeout=LONG_S) as got:
            return str(got.read().decode())

    assert "nv_gpu_utilization{" not in scrape()
    gateway._serving._meter = meter(FakeNvml(f"GPU-{ONE}"), ONE)
    assert f'\nnv_gpu_utilization{{gpu_uuid="GPU-{ONE}"}} 0.37\n' in scrape()
    hanging = Hanging()
    gateway._serving._meter = meter(hanging, ONE, answer_s_max=0.01)
    without = scrape()
    assert "nv_gpu_utilization{" not in without and "\nnv_inference_count{" in without
    hanging.may.set()
