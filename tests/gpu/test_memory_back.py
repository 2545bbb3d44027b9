"""Does a real GPU have its memory back when versions come and go two hundred times?"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http

from serving import access
from serving.gpu.driver import driver
from tests.gpus import NEEDS_GPU
from tests.models import heavy, mlp, place
from tests.running import Running

pytestmark = [pytest.mark.gpu, NEEDS_GPU, pytest.mark.timeout(900)]

CYCLES, SETTLED = 200, 10
MEGABYTES = 16
GROWTH_BYTES_MAX = 64 << 20
"""Of four versions: what 190 of them left behind would be seen if it were a third of a megabyte each."""


def free_bytes() -> int:
    gc.collect()
    return driver(0).mem_info()[0]


@pytest.mark.parametrize("graphs", [True, False])
def test_memory_is_back_after_200_loads_and_unloads(tmp_path: Path, graphs: bool):
    place(tmp_path / "models", "stays", 1, mlp())
    place(tmp_path / "models", "comes", 1, heavy(MEGABYTES), 'name: "comes" max_batch_size: 16')
    settings = {"engine": {"device": "gpu"}, "gpu": {"graphs": graphs}}
    with (
        Running(tmp_path / "models", tmp_path / "state", settings) as running,
        tritonclient.http.InferenceServerClient(running.http, network_timeout=60) as client,
    ):
        headers = {"Authorization": f"Bearer {access.token(access.control_folder(running.config))}"}
        given = tritonclient.http.InferInput("x", [3, 16], "FP32")
        given.set_data_from_numpy(np.ones((3, 16), np.float32))
        settled = 0
        for cycle in range(CYCLES + 1):
            client.load_model("comes", headers=headers)
            assert client.infer("comes", [given]).as_numpy("y").shape == (3, 1)
            (version,) = running.gateway.shelf.loaded.servables["comes"].values()
            assert version.memory["cuda:0"] > MEGABYTES * 900_000
            del version
            client.unload_model("comes", headers=headers)
            if cycle == SETTLED:
                settled = free_bytes()
        assert settled - free_bytes() < GROWTH_BYTES_MAX
        assert client.infer("stays", [given]).as_numpy("y").shape == (3, 2)
