"""Does a whole gateway put versions on a GPU and take them off, as far as that can be seen without one?

The driver is made for tests (`tests/cuda.py`), and what the GPU would compute is computed by the processor, when
its turn in the stream comes; all else is what serves on a real one.
"""

from __future__ import annotations

import gc
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http

from serving import loader
from serving.config import parse
from serving.errors import Failed
from serving.gpu import taken
from serving.gpu.bound import slot_size
from serving.gpu.need import NoRoom, Remembered
from serving.gpu.pace import DEPTH_MAX
from serving.gpu.placing import Placing
from serving.model import Artifact, ModelConfig
from serving.session import Stop
from tests import models
from tests.bound import Queued, pretend_gpu
from tests.cuda import FakeCuda
from tests.running import Running

PATIENT = {"engine": {"inline_us_max": 0}, "gpu": {"spare_bytes": 0}}
"""Nothing is so short that it is better run on the event loop."""


@pytest.fixture
def cuda(monkeypatch):
    library = FakeCuda(total=2 << 30)
    pretend_gpu(monkeypatch, library)
    monkeypatch.setattr(taken, "_REMEMBERED", Remembered())
    return library


def prepared(folder: Path, config: ModelConfig, document: dict[str, Any] = PATIENT) -> loader.Prepared:
    path = models.place(folder, "m", 1, models.mlp()) / "1" / "model.onnx"
    artifact = Artifact("m", 1, "digest", path, path.stat().st_size)
    with closing(Placing()) as placing:
        return loader.prepare(artifact, config, {}, parse(document), placing)


def test_what_a_version_takes_of_the_gpu_is_measured_and_comes_back(tmp_path, cuda):
    version = prepared(tmp_path, ModelConfig("m", rows_max=4))
    assert version.device is not None
    assert version.on_gpu == {"cuda:0": cuda.used} == {"cuda:0": DEPTH_MAX * slot_size(version.spec)}
    version.device.close()
    assert cuda.used == 0
    del version
    assert len(cuda.streams) == 1


def test_a_model_that_cannot_be_captured_is_loaded_anew_without_graphs(tmp_path, cuda, monkeypatch, caplog):
    opened: list[bool] = []

    def refuse(self: Queued, binding: Any, options: Any) -> None:
        number = int(options.get_run_config_entry("gpu_graph_id"))
        opened.append(number > 0)
        if number > 0:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        run(self, binding, options)

    run = Queued.run_with_iobinding
    monkeypatch.setattr(Queued, "run_with_iobinding", refuse)
    version = prepared(tmp_path, ModelConfig("m", rows_max=4))
    assert opened[0] and not any(opened[1:])
    assert version.device is not None
    assert "event=no_cuda_graphs" in caplog.text
    version.device.close()
    with pytest.raises(
        Failed, match="optimization.cuda.graphs: its runs cannot be captured as CUDA graphs: .* 900"
    ):
        prepared(tmp_path / "again", ModelConfig("m", rows_max=4, graphs=True))


def test_a_version_that_does_not_run_there_is_refused(tmp_path, cuda, monkeypatch):
    monkeypatch.setattr(loader, "find_sample", lambda *_: None)
    with pytest.raises(Failed, match="it loads on the GPU, but does not run there"):
        prepared(tmp_path, ModelConfig("m", rows_max=4))
    gc.collect()
    assert cuda.used == 0


def test_a_version_that_would_not_fit_is_not_begun(tmp_path, cuda, monkeypatch):
    monkeypatch.setattr(loader, "open_onnx", lambda *_: pytest.fail("it was opened"))
    cuda.total = 100 << 20
    with pytest.raises(
        NoRoom, match="GPU 0: it needs about 257 MiB: 1 MiB of weights and 256 MiB to run; 100 MiB"
    ):
        prepared(tmp_path, ModelConfig("m", rows_max=4))


def test_buffers_that_would_not_fit_leave_nothing_behind(tmp_path, cuda):
    cuda.total = 257 << 20
    document = {**PATIENT, "gpu": {"spare_bytes": 0, "graphs": False}}
    path = models.place(tmp_path, "m", 1, models.identity("FP32", ("N", 1 << 16))) / "1" / "model.onnx"
    artifact = Artifact("m", 1, "digest", path, path.stat().st_size)
    with closing(Placing()) as placing, pytest.raises(NoRoom, match="a smaller max_batch_size makes less"):
        loader.prepare(artifact, ModelConfig("m", rows_max=1024), {}, parse(document), placing)
    assert cuda.used == 0
    assert len(cuda.streams) == 1


def ask(client: Any, rows: int, seed: int) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    given = tritonclient.http.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    return x, client.infer("m", [given]).as_numpy("y")


@pytest.mark.parametrize("graphs", [True, False])
def test_a_gateway_answers_from_the_gpu_and_shows_what_is_held_there(tmp_path, cuda, monkeypatch, graphs):
    models.place(tmp_path / "models", "m", 1, models.mlp(), 'name: "m" max_batch_size: 4')
    plain = prepared(tmp_path / "plain", ModelConfig("m", rows_max=4), {"engine": {"device": "cpu"}})
    settings = {**PATIENT, "gpu": {"spare_bytes": 0, "graphs": graphs}}
    with Running(tmp_path / "models", tmp_path / "state", settings) as running:
        wrong: list[Any] = []

        def client(number: int) -> None:
            with tritonclient.http.InferenceServerClient(running.http, network_timeout=60) as asking:
                for count in range(6):
                    x, y = ask(asking, 1 + count % 4, 10 * number + count)
                    [expected] = plain.session.run({"x": x}, Stop())
                    if not np.allclose(y, expected, rtol=1e-5):
                        wrong.append((number, count))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert not wrong
        (version,) = running._serving.read().versions.values()
        assert version.memory_bytes["cuda:0"] == cuda.used > 0
        assert version.counts.runs > 0
    assert cuda.used == 0
    assert not cuda.pinned
