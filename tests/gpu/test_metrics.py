"""Does a scrape of a gateway on a real GPU say what NVML says of it?"""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pynvml
import pytest

from serving.config import Config
from serving.gpu.driver import driver
from serving.gpu.nvml import meter
from tests.gpus import NEEDS_GPU
from tests.models import mlp, place
from tests.running import Running

pytestmark = [pytest.mark.gpu, NEEDS_GPU]


def test_the_gpus_are_those_that_cuda_shows():
    asked = meter(Config())
    assert asked is not None
    said = asked.ask().result(60)
    assert driver(0).uuid().partition("-")[2] in {name.partition("-")[2] for name in said}
    for reading in said.values():
        assert reading.memory_total_bytes is not None and reading.memory_used_bytes is not None
        assert 0 < reading.memory_used_bytes < reading.memory_total_bytes


def test_a_scrape_shows_the_gpu_and_what_it_has_of_memory(tmp_path: Path):
    place(tmp_path / "models", "m", 1, mlp())
    with Running(tmp_path / "models", tmp_path / "state", {"engine": {"device": "gpu"}}) as running:
        running._serving._meter.ask().result(60)
        with urllib.request.urlopen(f"http://{running.metrics}/metrics", timeout=60) as got:
            text = got.read().decode()
    found = dict(re.findall(r'^(nv_\w+){gpu_uuid="[^"]+"} (\S+)$', text, re.MULTILINE))
    _, total = driver(0).mem_info()
    assert float(found["nv_gpu_memory_total_bytes"]) >= total
    if "nv_gpu_utilization" in found:  # A part of a GPU (MIG) does not tell.
        assert 0 <= float(found["nv_gpu_utilization"]) <= 1
        assert float(found["nv_gpu_power_usage"]) > 0 and float(found["nv_energy_consumption"]) > 0
    assert 'turnout_version_memory_bytes{device="cuda:0",model="m",version="1"}' in text


def test_nvml_s_functions_are_there_that_are_asked():
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(driver(0).uuid())
    assert pynvml.nvmlDeviceGetMemoryInfo(handle).total > 0
