"""What does a model's config.pbtxt say? Read in full or refused: no field of it is ever ignored."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.model import (
    Batching,
    Device,
    ModelConfig,
    ModelSpec,
    QueuePolicy,
    VersionPolicy,
    Warmup,
    WarmupTensor,
)
from serving.pbtxt_fields import UNSAID, ConfigMistake, ignored, message, message_of_json
from serving.pbtxt_values import mistakes
from serving.regular import open_regular
from serving.repository import CONFIG_NAME, ONNX_NAME
from serving.wire import BY_CONFIG_TYPE, TensorSpec

CONFIG_BYTES_MAX = 1 << 20


def read(path: Path, model: str) -> ModelConfig:
    """Read the config.pbtxt of `model`.

    Raises
    ------
    ConfigMistake
        If it is not protobuf text, names an unknown field, or sets one that would be ignored.
    Refusal
        If it is not a regular file.
    """
    with os.fdopen(open_regular(path, CONFIG_NAME), "rb") as file:
        content = file.read(CONFIG_BYTES_MAX + 1)
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigMistake(f"{CONFIG_NAME}: larger than {CONFIG_BYTES_MAX} bytes")
    try:
        return parse(content.decode(), model)
    except UnicodeDecodeError:
        raise ConfigMistake(f"{CONFIG_NAME}: not UTF-8") from None


def parse(text: str, model: str) -> ModelConfig:
    """Return what a config.pbtxt already read says; raises as `read`."""
    return _parse(text, model, message, CONFIG_NAME)


def parse_json(text: str, model: str) -> ModelConfig:
    """Return what a configuration says that is written in JSON, with the same fields; raises as `read`."""
    return _parse(text, model, message_of_json, "config")


def _parse(text: str, model: str, reader: Callable[[str], Any], name: str) -> ModelConfig:
    try:
        said = reader(text)
        faults = [*ignored(said), *mistakes(said, model, said.max_batch_size != UNSAID)]
    except ConfigMistake as mistake:
        faults = [str(mistake)]
    if faults:
        raise ConfigMistake("\n".join(f"{name}: {fault}" for fault in faults))
    return _config(said, model)


def document(spec: ModelSpec) -> dict[str, Any]:
    """Return a version's completed configuration as Triton's ``GET /v2/models/M/config`` shows it."""
    from google.protobuf.json_format import MessageToDict

    said = completed(spec)
    shown: dict[str, Any] = MessageToDict(
        said, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _put_numbers(shown, said.DESCRIPTOR)
    return shown


def _config(said: Any, model: str) -> ModelConfig:
    rows_max = None if said.max_batch_size == UNSAID else said.max_batch_size
    front = (-1,) if rows_max else ()
    group = said.instance_group[0] if said.instance_group else None
    optimization = said.optimization
    graph, accelerators = optimization.HasField("graph"), optimization.execution_accelerators
    return ModelConfig(
        name=model,
        rows_max=rows_max,
        inputs=tuple(_tensor(each, front, optional=each.optional) for each in said.input),
        outputs=tuple(_tensor(each, front, optional=False) for each in said.output),
        labels={each.name: each.label_filename for each in said.output if each.label_filename},
        versions=_version_policy(said.version_policy),
        instances=group.count or 1 if group else 1,
        device=_device(group) if group else Device.AUTO,
        gpus=tuple(group.gpus) if group else (),
        batching=_batching(said.dynamic_batching) if said.HasField("dynamic_batching") else None,
        warmup=tuple(_warmup(each) for each in said.model_warmup),
        graph_level=optimization.graph.level if graph else None,
        graphs=optimization.cuda.graphs if optimization.HasField("cuda") else None,
        tensorrt=next((dict(each.parameters) for each in accelerators.gpu_execution_accelerator), None),
        parameters={key: said.parameters[key].string_value for key in sorted(said.parameters)},
    )


def _type_name(said: Any) -> str:
    field = said.DESCRIPTOR.fields_by_name["data_type"]
    name: str = field.enum_type.values_by_number[said.data_type].name
    return name


def _tensor(said: Any, front: tuple[int, ...], *, optional: bool) -> TensorSpec:
    return TensorSpec(said.name, BY_CONFIG_TYPE[_type_name(said)], (*front, *said.dims), optional)


def _version_policy(said: Any) -> VersionPolicy:
    match said.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(every=True)
        case "specific":
            return VersionPolicy(specific=tuple(sorted(set(said.specific.versions))))
        case "latest":
            return VersionPolicy(latest=said.latest.num_versions)
        case _:
            return VersionPolicy()


def _device(group: Any) -> Device:
    kinds = {group.KIND_CPU: Device.CPU, group.KIND_GPU: Device.GPU}
    return kinds.get(group.kind, Device.AUTO)


def _batching(said: Any) -> Batching:
    return Batching(
        preferred_rows=tuple(sorted(set(said.preferred_batch_size), reverse=True)),
        delay_us=said.max_queue_delay_microseconds,
        preserve_order=said.preserve_ordering,
        priority_levels=said.priority_levels,
        priority_default=said.default_priority_level,
        default_policy=_queue_policy(said.default_queue_policy),
        priority_policies={
            level: _queue_policy(said.priority_queue_policy[level])
            for level in sorted(said.priority_queue_policy)
        },
    )


def _queue_policy(said: Any) -> QueuePolicy:
    return QueuePolicy(
        timeout_us=said.default_timeout_microseconds,
        delay=said.timeout_action == said.DELAY,
        allow_override=said.allow_timeout_override,
        requests_max=said.max_queue_size,
    )


def _warmup(said: Any) -> Warmup:
    tensors = tuple(
        WarmupTensor(
            name,
            tuple(said.inputs[name].dims),
            "zero" if said.inputs[name].WhichOneof("input_data_type") == "zero_data" else "random",
            BY_CONFIG_TYPE[_type_name(said.inputs[name])],
        )
        for name in sorted(said.inputs)
    )
    return Warmup(said.name, said.batch_size, tensors, said.count or 1)


def completed(spec: ModelSpec) -> Any:
    """Return the protobuf that would be a complete config.pbtxt of `spec`."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig as Message

    config = spec.config
    said = Message(
        name=config.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=spec.rows_max,
        default_model_filename=ONNX_NAME,
        parameters={key: {"string_value": value} for key, value in config.parameters.items()},
    )
    for tensors, fields in ((spec.inputs, said.input), (spec.outputs, said.output)):
        for each in tensors:
            dims = each.shape[1:] if spec.rows_max else each.shape
            fields.add(name=each.name, data_type=each.datatype.config_type, dims=dims)
    for field, each in zip(said.input, spec.inputs, strict=True):
        field.optional = each.optional
    for field in said.output:
        field.label_filename = config.labels.get(field.name, "")
    _say_versions(said.version_policy, config.versions)
    group = said.instance_group.add(name=config.name, kind=_KINDS[config.device])
    group.count, group.gpus[:] = config.instances, config.gpus
    if config.batching is not None:
        _say_batching(said.dynamic_batching, config.batching)
    if config.graph_level is not None:
        said.optimization.graph.level = config.graph_level
    if config.graphs is not None:
        said.optimization.cuda.graphs = config.graphs
    if config.tensorrt is not None:
        accelerators = said.optimization.execution_accelerators
        accelerators.gpu_execution_accelerator.add(name="tensorrt", parameters=config.tensorrt)
    for sample in config.warmup:
        _say_warmup(said.model_warmup.add(), sample, spec)
    return said


_KINDS = {Device.CPU: "KIND_CPU", Device.GPU: "KIND_GPU", Device.AUTO: "KIND_AUTO"}


def _say_versions(said: Any, policy: VersionPolicy) -> None:
    if policy.every:
        said.all.SetInParent()
    elif policy.specific:
        said.specific.versions.extend(policy.specific)
    else:
        said.latest.num_versions = policy.latest


def _say_batching(said: Any, batching: Batching) -> None:
    said.SetInParent()
    said.preferred_batch_size.extend(sorted(batching.preferred_rows))
    said.max_queue_delay_microseconds = batching.delay_us
    said.preserve_ordering = batching.preserve_order
    said.priority_levels = batching.priority_levels
    said.default_priority_level = batching.priority_default
    _say_queue(said.default_queue_policy, batching.default_policy)
    for level, policy in batching.priority_policies.items():
        _say_queue(said.priority_queue_policy[level], policy)


def _say_queue(said: Any, policy: QueuePolicy) -> None:
    said.timeout_action = said.DELAY if policy.delay else said.REJECT
    said.default_timeout_microseconds = policy.timeout_us
    said.allow_timeout_override = policy.allow_override
    said.max_queue_size = policy.requests_max


def _say_warmup(said: Any, sample: Warmup, spec: ModelSpec) -> None:
    said.name, said.batch_size, said.count = sample.name, sample.rows, sample.count
    for tensor in sample.tensors:
        field = said.inputs[tensor.name]
        taken = spec.input(tensor.name)
        datatype = tensor.datatype or (taken and taken.datatype)
        if datatype:
            field.data_type = (
                field.DESCRIPTOR.fields_by_name["data_type"]
                .enum_type.values_by_name[datatype.config_type]
                .number
            )
        field.dims.extend(tensor.shape)
        setattr(field, f"{tensor.fill}_data", True)


def _put_numbers(shown: dict[str, Any], descriptor: Any) -> None:
    """Turn 64-bit integers into JSON numbers, as Triton does, where protobuf's JSON has strings."""
    for name, value in shown.items():
        field = descriptor.fields_by_name[name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"].message_type
            parts = list(value.values()) if inner else []
        else:
            inner = field.message_type
            parts = value if isinstance(value, list) else [value]
        if inner is not None:
            for part in parts:
                _put_numbers(part, inner)
        elif field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
            shown[name] = [int(each) for each in value] if isinstance(value, list) else int(value)
