"""Do models that published packages ship give through the gateway what ONNX Runtime gives directly?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tritonclient.http import InferenceServerClient

from serving.config import Config
from serving.loader import prepare
from serving.model import Artifact, ModelConfig
from tests.e2e.asking import ask, directly, given, same
from tests.running import Running

LIGHT = ("shufflenet", "squeezenet", "inception_v1", "inception_v2", "resnet50", "densenet121")
"""Of the nine, those whose weights, made at the load, fit a test: VGG 19 alone takes 4 s and 550 MB."""
TRAINED = ("digits-forest", "iris-logistic")
STATEFUL = ("silero_vad", "silero_vad_16k_op15", "silero_vad_half", "silero_vad_op18_ifless")
CHUNK = 512
CONTEXT = 64


def _folder(package: str) -> Path:
    """Return where a package lies, without importing it: Silero VAD would want PyTorch."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return every model's ONNX file by its name."""
    light = _folder("onnx") / "backend" / "test" / "data" / "light"
    found = {path.stem: path for path in (_folder("silero_vad") / "data").glob("*.onnx")}
    found |= {name: light / f"light_{name}.onnx" for name in LIGHT}
    found["magika"] = next(_folder("magika").glob("models/*/model.onnx"))
    made = tmp_path_factory.mktemp("sklearn")
    for name in TRAINED:
        found[name] = made / f"{name}.onnx"
        proto = to_onnx(_trained(name), _rows(name)[:1], options={"zipmap": False})
        found[name].write_bytes(proto.SerializeToString())
    return found


def _rows(name: str) -> NDArray[np.float32]:
    return np.asarray((load_digits if name == "digits-forest" else load_iris)().data, np.float32)


def _trained(name: str) -> Any:
    if name == "digits-forest":
        return RandomForestClassifier(10, max_depth=6, random_state=0).fit(_rows(name), load_digits().target)
    flowers = load_iris()
    species = np.array(flowers.target_names)[flowers.target]  # Labels that are strings.
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(_rows(name), species)


@pytest.fixture(scope="module")
def running(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("packages")
    for name, path in files.items():
        (folder / "models" / name / "1").mkdir(parents=True)
        copy(path, folder / "models" / name / "1" / "model.onnx")
    with Running(folder / "models", folder / "state") as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(running.http) as client:
        yield client


def test_every_one_of_them_is_served(running, files):
    assert {model: state for (model, _), (state, _) in running.index().items()} == dict.fromkeys(
        files, "READY"
    )


# --- Silero VAD: a state that comes out of one request and goes into the next.


def _speech(rows: int, chunks: int) -> NDArray[np.float32]:
    """Return something with a rhythm like speech: [chunks, rows, CHUNK] at 16 kHz."""
    rng = np.random.default_rng(0)
    at_s = np.arange(chunks * CHUNK) / 16_000
    loud = (np.sin(2 * np.pi * 3 * at_s) > 0) * 0.3
    voices = [loud * np.sin(2 * np.pi * (120 + 40 * row) * at_s) for row in range(rows)]
    signal = np.stack(voices) + 0.01 * rng.standard_normal((rows, at_s.size))
    return np.ascontiguousarray(signal.reshape(rows, chunks, CHUNK).transpose(1, 0, 2), np.float32)


def _windows(rows: int, chunks: int) -> Iterator[NDArray[np.float32]]:
    """Yield what its own wrapper feeds it: each chunk behind the end of the one before."""
    context = np.zeros((rows, CONTEXT), np.float32)
    for chunk in _speech(rows, chunks):
        window = np.concatenate([context, chunk], axis=1)
        context = window[:, -CONTEXT:]
        yield window


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_silero_s_state_goes_round_through_the_client(client, files, name, rows, binary):
    session = directly(files[name])
    known = {each.name for each in session.get_inputs()}
    state = there = np.zeros((2, rows, 128), np.float32)
    heard = []
    for window in _windows(rows, chunks=12):
        rest = {"sr": np.array(16_000, np.int64)} if "sr" in known else {}
        want, state = session.run(["output", "stateN"], {"input": window, "state": state, **rest})
        got = ask(client, name, {"input": window, "state": there, **rest}, "output", "stateN", binary=binary)
        there = got.as_numpy("stateN")
        assert same(got.as_numpy("output"), want) and same(there, state)
        heard.append(float(want[0, 0]))
    assert max(heard) > 2 * min(heard)  # It hears a difference, so the state had something to say.


def test_silero_at_8_khz_takes_the_other_branch(client, files):
    session = directly(files["silero_vad"])
    x = _speech(1, 1)[0][:, :288]
    feeds = {"input": x, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(8_000, np.int64)}
    got = ask(client, "silero_vad", feeds)
    for name, want in zip(("output", "stateN"), session.run(["output", "stateN"], feeds), strict=True):
        assert same(got.as_numpy(name), want)


@pytest.mark.parametrize("name", STATEFUL)
def test_silero_is_warm_before_its_first_request(files, name):
    artifact = Artifact(name, 1, "", files[name], files[name].stat().st_size)
    assert prepare(artifact, ModelConfig(name), {}, Config()).run_ns > 0


# --- The others.


def _made_up(session: ort.InferenceSession, rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for each in session.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else rows for size in each.shape]
        if each.type == "tensor(float)":
            feeds[each.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[each.name] = rng.integers(0, 257, shape).astype({"tensor(int32)": np.int32}[each.type])
    return feeds


def _agree(client: InferenceServerClient, files: dict[str, Path], name: str, feeds: dict[str, Any]) -> None:
    session = directly(files[name])
    names = [each.name for each in session.get_outputs()]
    got = client.infer(name, given(feeds))
    for output, want in zip(names, session.run(names, feeds), strict=True):
        assert same(got.as_numpy(output), want), output


@pytest.mark.parametrize("name", [*LIGHT, "silero_vad_16k_sequence", "silero_vad_openvino_16k"])
def test_a_network_answers_as_it_does_directly(client, files, name):
    _agree(client, files, name, _made_up(directly(files[name]), rows=3))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_magika_tells_files_apart_as_it_does_directly(client, files, rows):
    _agree(client, files, "magika", _made_up(directly(files["magika"]), rows))


@pytest.mark.parametrize("rows", [1, 2, 64, 65, 150])
@pytest.mark.parametrize("name", TRAINED)
def test_what_scikit_learn_trained_answers_as_it_does_directly(client, files, name, rows):
    _agree(client, files, name, {"X": _rows(name)[:rows]})


def test_what_scikit_learn_trained_is_batched_without_being_told(running):
    loaded = running.gateway.shelf.loaded.servables
    assert all(loaded[name]["1"].spec.rows_max > 1 for name in TRAINED)
