"""A config.pbtxt is read in full or refused: what it says is never silently without effect."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig as Message

from serving import pbtxt
from serving.model import (
    Artifact,
    Batching,
    Device,
    ModelConfig,
    QueuePolicy,
    VersionPolicy,
    Warmup,
    WarmupTensor,
)
from serving.pbtxt_fields import READ, ignored
from serving.regular import Refusal
from serving.signature import complete
from serving.wire import DATATYPES, TensorSpec

WHOLE = """
name: "fraud"
backend: "onnxruntime"
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 16 ] },
  { name: "note" data_type: TYPE_STRING dims: [ -1 ] optional: true }
]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
version_policy { specific { versions: [ 7, 9, 8 ] } }
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5000 max_queue_size: 10 }
  priority_queue_policy { key: 1 value { allow_timeout_override: true } }
}
optimization {
  graph { level: 1 }
  cuda { graphs: false }
  execution_accelerators {
    gpu_execution_accelerator: [ { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ]
  }
}
model_warmup [ {
  name: "zeros" batch_size: 8 count: 3
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 16 ] zero_data: true } }
} ]
response_cache { enable: false }
parameters { key: "owner" value { string_value: "risk" } }
"""


def accelerated(*each: str) -> str:
    """Return a configuration that asks for accelerators."""
    asked = " ".join(f"gpu_execution_accelerator {{ {one} }}" for one in each)
    return f"optimization {{ execution_accelerators {{ {asked} }} }}"


def mistake(text: str, model: str = "fraud") -> str:
    with pytest.raises(pbtxt.ConfigMistake) as caught:
        pbtxt.parse(text, model)
    return str(caught.value)


def test_all_of_the_subset_is_carried():
    config = pbtxt.parse(WHOLE, "fraud")
    assert config == ModelConfig(
        name="fraud",
        rows_max=8,
        inputs=(
            TensorSpec("x", DATATYPES["FP32"], (-1, 16)),
            TensorSpec("note", DATATYPES["BYTES"], (-1, -1), optional=True),
        ),
        outputs=(TensorSpec("y", DATATYPES["FP32"], (-1, 2)),),
        labels={"y": "labels.txt"},
        versions=VersionPolicy(specific=(7, 8, 9)),
        instances=2,
        device=Device.GPU,
        gpus=(0, 1),
        batching=Batching(
            preferred_rows=(8, 4),
            delay_us=100,
            priority_levels=3,
            priority_default=2,
            default_policy=QueuePolicy(timeout_us=5000, delay=True, requests_max=10),
            priority_policies={1: QueuePolicy(allow_override=True)},
        ),
        warmup=(Warmup("zeros", 8, (WarmupTensor("x", (16,), "zero", DATATYPES["FP32"]),), 3),),
        graph_level=1,
        graphs=False,
        tensorrt={"precision_mode": "FP16"},
        parameters={"owner": "risk"},
    )


def test_an_empty_file_says_nothing():
    assert pbtxt.parse("", "fraud") == ModelConfig("fraud")


def test_graphs_that_are_switched_off_are_not_the_same_as_no_word_about_graphs():
    assert pbtxt.parse("optimization { cuda { } }", "fraud").graphs is False
    assert pbtxt.parse("optimization { cuda { graphs: true } }", "fraud").graphs is True
    assert pbtxt.parse("optimization { graph { level: 1 } }", "fraud").graphs is None


def test_zero_rows_are_not_the_same_as_no_word_about_rows():
    assert pbtxt.parse("max_batch_size: 0", "fraud").rows_max == 0
    assert pbtxt.parse('name: "fraud"', "fraud").rows_max is None


def test_without_a_batch_size_dims_are_the_whole_shape():
    config = pbtxt.parse('input { name: "x" data_type: TYPE_INT8 dims: [ 2, -1 ] }', "m")
    assert config.inputs == (TensorSpec("x", DATATYPES["INT8"], (2, -1)),)


def _leaves(descriptor, path="", depth=0):
    """Yield each field of the protobuf as a path, and a text that sets it to something."""
    for field in descriptor.fields:
        name = path + field.name
        inner = field.message_type
        if inner is None:
            yield name, lambda f=field: f"{f.name}: {_some(f)}"
        elif inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].message_type is None:
                yield name, lambda f=field: f"{f.name} {{ {_entry(f.message_type)} }}"
            else:
                for at, text in _leaves(inner.fields_by_name["value"].message_type, name + ".", depth + 1):
                    yield at, lambda f=field, t=text: f"{f.name} {{ {_entry(f.message_type, t())} }}"
        else:
            for at, text in _leaves(inner, name + ".", depth + 1):
                yield at, lambda f=field, t=text: f"{f.name} {{ {t()} }}"


def _entry(entry, inner=None):
    value = f"value {{ {inner} }}" if inner is not None else f"value: {_some(entry.fields_by_name['value'])}"
    return f"key: {_some(entry.fields_by_name['key'])} {value}"


def _some(field):
    if field.enum_type is not None:
        return field.enum_type.values[-1].name
    kinds = {field.CPPTYPE_STRING: '"some"', field.CPPTYPE_BOOL: "true"}
    return kinds.get(field.cpp_type, "3")


FIELDS = dict(_leaves(Message.DESCRIPTOR))


def _is_read(path):
    known = READ
    for part in path.split("."):
        if part not in known:
            return False
        known = known[part]
    return True


def test_the_walk_reaches_the_depths_of_the_protobuf():
    assert len(FIELDS) > 120
    assert {"input.reshape.shape", "dynamic_batching.priority_queue_policy.max_queue_size"} <= set(FIELDS)


@pytest.mark.parametrize("path", sorted(path for path in FIELDS if not _is_read(path)))
def test_a_field_that_would_be_ignored_is_refused_by_name(path):
    """Every field of Triton's protobuf that Turnout does not read, whichever it will have tomorrow."""
    message = mistake(FIELDS[path](), "some")
    lines = [line for line in message.splitlines() if "not supported by Turnout" in line]
    plain = [line.replace("'", "").replace("[0]", "") for line in lines]
    named = [line.split(": ")[1].replace("[some]", "").replace("[3]", "") for line in plain]
    assert named
    assert all(path == name or path.startswith(name + ".") for name in named)
    assert all(line.endswith("; remove it") for line in lines)


@pytest.mark.parametrize("path", sorted(path for path in FIELDS if _is_read(path)))
def test_a_field_that_is_read_is_never_called_unsupported(path):
    assert list(ignored(text_format.Parse(FIELDS[path](), Message()))) == []


def test_every_field_that_is_read_exists():
    def paths(known, prefix=""):
        for name, inner in known.items():
            yield from paths(inner, f"{prefix}{name}.") if inner else [prefix + name]

    known = set(FIELDS) | {"version_policy.all", "response_cache"}
    assert set(paths(READ)) <= known


def test_every_field_that_is_read_is_documented(root):
    page = (root / "docs" / "reference" / "models.md").read_text()

    def names(known):
        for name, inner in known.items():
            yield name
            yield from names(inner)

    assert [name for name in names(READ) if not re.search(rf"\b{name}\b", page)] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("max_batch_sise: 8", "config.pbtxt: line 1: unknown field 'max_batch_sise' in ModelConfig; did you mean 'max_batch_size'?"),
        ("dynamic_batching {\n prefered_batch_size: 8 }", "line 2: unknown field 'prefered_batch_size' in ModelDynamicBatching; did you mean 'preferred_batch_size'?"),
        ("input { data_type: TYPE_FLOAT32 }", "line 1: unknown value 'TYPE_FLOAT32'; did you mean 'TYPE_"),
        ("dynamic_batching { zzz: 1 }", "unknown field 'zzz' in ModelDynamicBatching; known here: preferred_batch_size, "),
        ("max_batch_size: 1 max_batch_size: 2", 'should not have multiple "max_batch_size" fields'),
        ('max_batch_size: "many"', "line 1: "),
        ("input {", "line 1: "),
        ("response_cache { enable: true }", "response_cache.enable: not supported by Turnout yet; remove it"),
        ("input { name: 'x' data_type: TYPE_FP32 dims: 1 reshape { shape: 1 } }", "input[0].reshape: not supported by Turnout yet"),
        ("sequence_batching { }", "sequence_batching: not supported by Turnout; remove it"),
        ("ensemble_scheduling { }", "ensemble_scheduling: not supported by Turnout; remove it"),
        ("optimization { cuda { busy_wait_events: true } }", "optimization.cuda.busy_wait_events: not supported by Turnout; remove it"),
        ("optimization { execution_accelerators { cpu_execution_accelerator { name: 'openvino' } } }", "cpu_execution_accelerator: not supported by Turnout yet"),
        (accelerated("name: 'gpu_io'"), "gpu_execution_accelerator[0].name: 'gpu_io'; Turnout has 'tensorrt' alone"),
        (accelerated("name: 'tensorrt'", "name: 'tensorrt'"), "gpu_execution_accelerator: 2 of them; Turnout takes one"),
        (accelerated("name: 'tensorrt'")[:-1] + "cuda { graphs: true } }", "optimization.cuda.graphs: with an accelerator there are none"),
        (accelerated("name: 'tensorrt' parameters { key: 'precision_mode' value: 'FP8' }"), "parameters['precision_mode']: 'FP8'; one of FP32, FP16"),
        (accelerated("name: 'tensorrt' parameters { key: 'max_workspace_size_bytes' value: '1G' }"), "parameters['max_workspace_size_bytes']: '1G'; expected a number"),
        (accelerated("name: 'tensorrt' parameters { key: 'trt_engine_cache_enable' value: 'yes' }"), "parameters['trt_engine_cache_enable']: 'yes'; one of 1, true"),
        (accelerated("name: 'tensorrt' parameters { key: 'trt_engine_cache_path' value: '/tmp' }"), "parameters['trt_engine_cache_path']: not supported by Turnout; precision_mode"),
        ("parameters { key: 'a' value { string_value: 'b' } } metric_tags { key: 'a' value: 'b' }", "metric_tags: not supported by Turnout yet"),
        ('name: "other"', "name: is 'other', but the folder is 'fraud'"),
        ('backend: "python"', "backend: 'python'; Turnout has 'onnxruntime' alone"),
        ('platform: "tensorrt_plan"', "platform: 'tensorrt_plan'; Turnout has 'onnxruntime_onnx' alone"),
        ('default_model_filename: "m.onnx"', "default_model_filename: 'm.onnx'"),
        ("max_batch_size: -1", "max_batch_size: -1 is not between 0 and 4096"),
        ("input { data_type: TYPE_FP32 dims: 1 }", "input[0].name: missing"),
        ("input { name: 'x' dims: 1 }", "input[0].data_type: missing; one of TYPE_BOOL"),
        ("output { name: 'y' data_type: TYPE_FP32 dims: 0 }", "output[0].dims: 0; a dimension is positive, or -1"),
        ("output { name: 'y' data_type: TYPE_FP32 } output { name: 'y' data_type: TYPE_FP32 }", "output[1].name: 'y' is declared twice"),
        ("output { name: 'y' data_type: TYPE_FP32 label_filename: '../x' }", "output[0].label_filename: '../x'; labels lie in"),
        ("version_policy { latest { } }", "version_policy.latest.num_versions: 0"),
        ("version_policy { specific { } }", "version_policy.specific.versions: []"),
        ("version_policy { specific { versions: 0 } }", "version_policy.specific.versions: [0]"),
        ("instance_group { name: 'a' }", "instance_group[0].name: 'a'; it is the model's, 'fraud', or none"),
        ("instance_group { count: 65 }", "instance_group[0].count: 65 is not between 1 and 64"),
        ("instance_group { kind: KIND_MODEL }", "instance_group[0].kind: not supported by Turnout yet"),
        ("instance_group { } instance_group { }", "instance_group: 2 groups are not supported"),
        ("instance_group { kind: KIND_CPU gpus: 1 }", "instance_group[0].gpus: [1] with KIND_CPU"),
        ("instance_group { kind: KIND_GPU gpus: [ 1, 1 ] }", "expected each GPU's number once"),
        ("max_batch_size: 0 dynamic_batching { }", "dynamic_batching: needs max_batch_size > 0"),
        ("max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }", "preferred_batch_size: 5 is not between 1 and 4"),
        ("dynamic_batching { preferred_batch_size: 5 }", "preferred_batch_size: needs max_batch_size"),
        ("dynamic_batching { max_queue_delay_microseconds: 60000001 }", "max_queue_delay_microseconds: 60000001 is not"),
        ("dynamic_batching { priority_levels: 2 }", "default_priority_level: 0 is not between 1 and 2"),
        ("dynamic_batching { default_priority_level: 1 }", "default_priority_level: needs priority_levels"),
        ("dynamic_batching { priority_levels: 2 default_priority_level: 1 preserve_ordering: true }", "preserve_ordering: contradicts"),
        ("dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value { } } }", "priority_queue_policy[3]: no such level"),
        ("optimization { graph { level: 7 } }", "optimization.graph.level: 7"),
        ("model_warmup { batch_size: 2 inputs { key: 'x' value { data_type: TYPE_FP32 zero_data: true } } }", "model_warmup[0].batch_size: 2 is not between 1 and 1"),
        ("model_warmup { batch_size: 1 }", "model_warmup[0].inputs: missing"),
        ("model_warmup { batch_size: 1 inputs { key: 'x' value { data_type: TYPE_FP32 dims: -1 zero_data: true } } }", "inputs['x'].dims: [-1]"),
        ("model_warmup { batch_size: 1 inputs { key: 'x' value { data_type: TYPE_FP32 } } }", "inputs['x']: expected zero_data: true"),
        ("model_warmup { batch_size: 1 inputs { key: 'x' value { zero_data: true } } }", "inputs['x'].data_type: missing"),
        ("model_warmup { batch_size: 1 inputs { key: 'x' value { data_type: TYPE_FP32 input_data_file: 'f' } } }", "inputs['x'].input_data_file: not supported by Turnout yet"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text, line):
    assert line in mistake(text)


def test_all_mistakes_are_reported_at_once():
    lines = mistake(
        "max_batch_size: -1 cc_model_filenames { } metric_tags { } instance_group { count: 99 }"
    ).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("config.pbtxt: ") for line in lines)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        pbtxt.parse(text, "m")
    except pbtxt.ConfigMistake as error:
        assert str(error).startswith("config.pbtxt: ")


@given(
    rows_max=st.integers(1, 64),
    dims=st.lists(st.integers(1, 9) | st.just(-1), max_size=4),
    delay_us=st.integers(0, 10**6),
    latest=st.integers(1, 9),
)
def test_the_document_of_a_configuration_reads_back_as_the_same(rows_max, dims, delay_us, latest):
    before = pbtxt.parse(
        f"max_batch_size: {rows_max} version_policy {{ latest {{ num_versions: {latest} }} }}"
        f"input {{ name: 'x' data_type: TYPE_FP16 dims: {dims} }}"
        f"output {{ name: 'y' data_type: TYPE_BOOL dims: {dims} }}"
        f"instance_group {{ count: 1 }} dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}",
        "m",
    )
    spec = complete(ARTIFACT, before, before.inputs, before.outputs)
    shown = pbtxt.document(spec)
    assert pbtxt.parse(_text(shown), "m") == before


ARTIFACT = Artifact("m", 1, "0" * 64, Path("model.onnx"), 1)


def _text(shown):
    """Return a configuration in JSON form as config.pbtxt, defaults left out."""
    from google.protobuf.json_format import ParseDict

    return text_format.MessageToString(ParseDict(shown, Message()))


def test_the_document_looks_like_tritons():
    config = pbtxt.parse(WHOLE, "fraud")
    shown = pbtxt.document(complete(ARTIFACT, config, config.inputs, config.outputs))
    assert shown["platform"] == "onnxruntime_onnx"
    assert shown["backend"] == "onnxruntime"
    assert shown["max_batch_size"] == 8
    assert shown["input"][0] == {
        "name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [16],
        "is_shape_tensor": False, "allow_ragged_batch": False, "optional": False, "is_non_linear_format_io": False,
    }  # fmt: skip
    assert shown["output"][0]["label_filename"] == "labels.txt"
    assert shown["version_policy"] == {"specific": {"versions": [7, 8, 9]}}
    assert shown["instance_group"][0]["kind"] == "KIND_GPU"
    assert shown["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    assert shown["dynamic_batching"]["priority_queue_policy"]["1"]["allow_timeout_override"] is True
    assert shown["parameters"] == {"owner": {"string_value": "risk"}}
    assert shown["model_warmup"][0]["inputs"]["x"]["dims"] == [16]


def test_a_document_without_batching_holds_whole_shapes():
    inputs = (TensorSpec("x", DATATYPES["BYTES"], (-1, 3)),)
    shown = pbtxt.document(complete(ARTIFACT, ModelConfig("m"), inputs, inputs))
    assert shown["max_batch_size"] == 0
    assert shown["input"][0]["dims"] == [-1, 3]
    assert shown["input"][0]["data_type"] == "TYPE_STRING"
    assert "dynamic_batching" not in shown


def test_a_file_is_read_from_disk_and_a_pipe_is_not(tmp_path):
    (tmp_path / "config.pbtxt").write_text("max_batch_size: 3")
    assert pbtxt.read(tmp_path / "config.pbtxt", "m").rows_max == 3
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refusal, match="is a pipe"):
        pbtxt.read(tmp_path / "pipe", "m")


def test_a_file_that_is_not_utf8_or_too_large_is_refused(tmp_path):
    (tmp_path / "latin").write_bytes(b'name: "\xe9"')
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    with pytest.raises(pbtxt.ConfigMistake, match="not UTF-8"):
        pbtxt.read(tmp_path / "latin", "m")
    with pytest.raises(pbtxt.ConfigMistake, match="larger than"):
        pbtxt.read(tmp_path / "large", "m")
