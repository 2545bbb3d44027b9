"""A version is what its ONNX file is and its configuration says; where they contradict, both are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.model import Artifact, ModelConfig, Warmup, WarmupTensor
from serving.regular import Refusal
from serving.signature import Disagreement, complete, could_batch, read_labels, signature
from serving.wire import DATATYPES, TensorSpec
from tests import hostile

ARTIFACT = Artifact("m", 3, "0" * 64, Path("model.onnx"), 1)
FP32 = DATATYPES["FP32"]
X, Y = TensorSpec("x", FP32, (-1, 16)), TensorSpec("y", FP32, (-1, 2))


def session(content: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_the_signature_is_the_graphs():
    made = hostile.model(
        [hostile.helper.make_node("Add", ["x", "b"], ["y"])],
        [hostile.value("x", shape=["N", 3]), hostile.value("b", shape=[1])],
        [hostile.value("y", shape=["N", 3])],
        initializers=[hostile.numpy_helper.from_array(np.ones(1, np.float32), "b")],
    )
    inputs, outputs = signature(session(hostile.dump(made)))
    assert inputs == (TensorSpec("x", FP32, (-1, 3)), TensorSpec("b", FP32, (1,), optional=True))
    assert outputs == (TensorSpec("y", FP32, (-1, 3)),)


def test_what_the_protocol_cannot_carry_is_named():
    with pytest.raises(Refusal, match=r"output 'y' is a seq\(tensor\(float\)\)"):
        signature(session(hostile.sequence_output()))


@given(st.lists(st.lists(st.sampled_from([-1, 1, 4]), max_size=3), min_size=1, max_size=4))
def test_rows_can_be_joined_only_if_every_tensor_begins_with_an_open_dimension(shapes):
    specs = tuple(TensorSpec(str(i), FP32, tuple(shape)) for i, shape in enumerate(shapes))
    assert could_batch(specs, specs) == all(shape and shape[0] == -1 for shape in shapes)


def test_a_model_without_inputs_has_no_rows():
    assert not could_batch((), (Y,))


def test_what_the_configuration_does_not_say_is_the_graphs():
    spec = complete(ARTIFACT, ModelConfig("m"), (X,), (Y,))
    assert (spec.inputs, spec.outputs, spec.rows_max) == ((X,), (Y,), 0)
    assert complete(ARTIFACT, ModelConfig("m"), (X,), (Y,), 32).rows_max == 32


def test_the_configuration_has_the_last_word_on_rows():
    assert complete(ARTIFACT, ModelConfig("m", rows_max=8), (X,), (Y,), 32).rows_max == 8
    assert complete(ARTIFACT, ModelConfig("m", rows_max=0), (X,), (Y,), 32).rows_max == 0


def test_a_graph_that_fixes_its_batch_dimension_is_not_batched():
    graph = replace(X, shape=(1, 16))
    config = ModelConfig("m", rows_max=8, inputs=(X,), outputs=(Y,))
    spec = complete(ARTIFACT, config, (graph,), (Y,))
    assert spec.rows_max == 0
    assert spec.inputs == (graph,)
    assert spec.outputs == (Y,)


def test_a_narrower_declaration_is_enforced():
    graph = replace(X, shape=(-1, -1))
    assert complete(ARTIFACT, ModelConfig("m", inputs=(X,)), (graph,), (Y,)).inputs == (X,)


def test_inputs_that_are_not_declared_are_the_graphs_and_outputs_are_not_served():
    z = TensorSpec("z", FP32, (-1, 1))
    config = ModelConfig("m", inputs=(X,), outputs=(z,))
    spec = complete(ARTIFACT, config, (X, z), (Y, z))
    assert [each.name for each in spec.inputs] == ["x", "z"]
    assert [each.name for each in spec.outputs] == ["z"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig("m", inputs=(replace(X, name="q"),)), "declares input 'q'; the ONNX file has 'x'"),
        (ModelConfig("m", outputs=(replace(Y, name="q"),)), "declares output 'q'; the ONNX file has 'y'"),
        (
            ModelConfig("m", inputs=(replace(X, datatype=DATATYPES["INT8"]),)),
            "input 'x' is TYPE_FP32 in the ONNX file, TYPE_INT8 in config.pbtxt",
        ),
        (
            ModelConfig("m", inputs=(replace(X, shape=(-1, 17)),)),
            r"input 'x' has shape \[-1, 16\] in the ONNX file, \[-1, 17\] in config.pbtxt",
        ),
        (ModelConfig("m", inputs=(replace(X, shape=(-1, -1)),)), r"\[-1, 16\] in the ONNX file, \[-1, -1\]"),
        (ModelConfig("m", outputs=(replace(Y, shape=(2,)),)), r"output 'y' has shape \[-1, 2\] .*, \[2\]"),
        (ModelConfig("m", inputs=(replace(X, optional=True),)), "'x' is optional in config.pbtxt, but"),
    ],
)
def test_a_contradiction_names_both_sides(config, message):
    with pytest.raises(Disagreement, match=message):
        complete(ARTIFACT, config, (X,), (Y,))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            Warmup("s", 9, (WarmupTensor("x", (16,), "zero", FP32),)),
            "batch_size 9, the model takes at most 8",
        ),
        (Warmup("s", 1, (WarmupTensor("q", (16,), "zero", FP32),)), "declares model_warmup 's': input 'q'"),
        (
            Warmup("s", 1, (WarmupTensor("x", (15,), "zero", FP32),)),
            r"takes TYPE_FP32 \[-1, 16\], the sample",
        ),
        (Warmup("s", 1, (WarmupTensor("x", (16,), "zero", DATATYPES["INT8"]),)), r"TYPE_INT8 \[1, 16\]"),
        (Warmup("s", 1, ()), "input 'x' is missing"),
    ],
)
def test_a_warmup_sample_that_the_model_cannot_take_is_refused(sample, message):
    config = ModelConfig("m", rows_max=8, warmup=(sample,))
    with pytest.raises(Disagreement, match=message):
        complete(ARTIFACT, config, (X,), (Y,))


def test_labels_are_the_lines_of_their_file(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert read_labels(tmp_path, ModelConfig("m", labels={"y": "labels.txt"})) == {"y": ("cat", "dog")}


def test_labels_come_from_the_models_folder_alone(tmp_path):
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "latin").write_bytes(b"\xe9")
    for name, fault in (
        ("../secret", "leads out"),
        (str(tmp_path / "secret"), "leads out"),
        ("link", "through a link"),
        ("absent", "No such file"),
        ("latin", "must be UTF-8"),
    ):
        with pytest.raises(Refusal, match=fault):
            read_labels(folder, ModelConfig("m", labels={"y": name}))
