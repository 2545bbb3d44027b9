"""Do tensors come and go through a real GPU's memory, as `tests/e2e/test_cuda_memory.py` has it of one that is made up?"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from serving.gpu.driver import driver
from tests.gpu.client_of_memory import MISSING
from tests.gpus import NEEDS_GPU
from tests.models import identity, place
from tests.running import Running

pytestmark = [pytest.mark.gpu, NEEDS_GPU]


@pytest.fixture(scope="module", params=["gpu", "cpu"])
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("client-memory")
    place(folder / "models", "echo", 1, identity("FP32"))
    settings = {"engine": {"device": request.param}, "shared_memory": {"cuda": True}}
    with Running(folder / "models", folder / "state", settings) as running:
        yield running


@pytest.mark.parametrize("kind", ["driver", "tritonclient"])
def test_tensors_go_through_memory_of_another_process(running: Running, root: Path, kind: str):
    command = [sys.executable, "-m", "tests.gpu.client_of_memory", kind, running.http, running.grpc]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)
    if ended.returncode == MISSING:
        pytest.skip(ended.stdout.strip())
    assert ended.stdout == "right\n", ended.stderr


def test_what_is_no_handle_or_too_small_is_refused_and_nothing_is_lost(running: Running):
    with tritonclient.http.InferenceServerClient(running.http) as client:
        own = driver(0).device_memory(1 << 21)
        try:
            for handle in (bytes(64), driver(0).export_ipc(own)):  # The second is of this very process.
                with pytest.raises(InferenceServerException, match="cannot be opened: cuIpcOpenMemHandle"):
                    client.register_cuda_shared_memory("r", base64.b64encode(handle), 0, 64)
        finally:
            driver(0).free(own)
        assert client.get_cuda_shared_memory_status() == []
        assert "cuda_shared_memory" in client.get_server_metadata()["extensions"]
    assert not driver(0).lost
