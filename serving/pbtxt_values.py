"""Are the values of a config.pbtxt possible, each by itself and together?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from serving.repository import ONNX_NAME
from serving.wire import BY_CONFIG_TYPE

ROWS_MAX = 4096
INSTANCES_MAX = 64
LEVELS_MAX = 64
DELAY_US_MAX = 60_000_000
WARMUP_RUNS_MAX = 1000
PRECISIONS = ("FP32", "FP16", "BF16", "INT8")
WORKSPACE_BYTES_MAX = 1 << 40
SWITCHES = {"1": True, "true": True, "0": False, "false": False}


def mistakes(said: Any, model: str, rows_said: bool) -> Iterator[str]:
    """Yield a line for each value that cannot be; `rows_said` tells that `max_batch_size` is written."""
    if said.name not in ("", model):
        yield f"name: is {said.name!r}, but the folder is {model!r}; they must agree, or leave it out"
    yield from _choice("backend", said.backend, "onnxruntime")
    yield from _choice("platform", said.platform, "onnxruntime_onnx")
    yield from _choice("default_model_filename", said.default_model_filename, ONNX_NAME)
    if rows_said:
        yield from _within("max_batch_size", said.max_batch_size, 0, ROWS_MAX)
    for name in ("input", "output"):
        yield from _tensors(name, getattr(said, name))
    yield from _version_policy(said.version_policy)
    yield from _instances(said.instance_group, model)
    if said.HasField("dynamic_batching"):
        yield from _batching(said.dynamic_batching, said.max_batch_size if rows_said else None)
    level = said.optimization.graph.level
    if level not in (-1, 0, 1):
        yield f"optimization.graph.level: {level}; -1 is basic, 1 extended, 0 all optimizations"
    yield from _accelerators(said.optimization)
    for index, sample in enumerate(said.model_warmup):
        yield from _warmup(f"model_warmup[{index}]", sample, max(1, said.max_batch_size))


def _choice(field: str, value: str, only: str) -> Iterator[str]:
    if value not in ("", only):
        yield f"{field}: {value!r}; Turnout has {only!r} alone"


def _within(field: str, value: int, low: int, high: int) -> Iterator[str]:
    if not low <= value <= high:
        yield f"{field}: {value} is not between {low} and {high}"


def _tensors(field: str, tensors: Iterable[Any]) -> Iterator[str]:
    seen = set()
    for index, each in enumerate(tensors):
        where = f"{field}[{index}]"
        if not each.name:
            yield f"{where}.name: missing"
        elif each.name in seen:
            yield f"{where}.name: {each.name!r} is declared twice"
        seen.add(each.name)
        yield from _datatype(where, each)
        for size in each.dims:
            if size < 1 and size != -1:
                yield f"{where}.dims: {size}; a dimension is positive, or -1 for any size"
        label = getattr(each, "label_filename", "")
        if label.startswith("/") or "\\" in label or ".." in label.split("/"):
            yield f"{where}.label_filename: {label!r}; labels lie in the model's own folder"


def _datatype(where: str, each: Any) -> Iterator[str]:
    value = each.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number.get(each.data_type)
    if value is None or value.name not in BY_CONFIG_TYPE:
        yield f"{where}.data_type: missing; one of {', '.join(BY_CONFIG_TYPE)}"


def _version_policy(said: Any) -> Iterator[str]:
    match said.WhichOneof("policy_choice"):
        case "latest" if said.latest.num_versions < 1:
            yield "version_policy.latest.num_versions: 0; at least one version must be served"
        case "specific" if not said.specific.versions or min(said.specific.versions) < 1:
            given = list(said.specific.versions)
            yield f"version_policy.specific.versions: {given}; expected positive numbers"
        case _:
            pass


def _instances(groups: Any, model: str) -> Iterator[str]:
    if len(groups) > 1:
        yield f"instance_group: {len(groups)} groups are not supported by Turnout yet; keep one"
    for index, group in enumerate(groups):
        where = f"instance_group[{index}]"
        if group.name not in ("", model):  # The one name that is told, so that it may be sent back.
            yield f"{where}.name: {group.name!r}; it is the model's, {model!r}, or none"
        if group.count:
            yield from _within(f"{where}.count", group.count, 1, INSTANCES_MAX)
        if group.kind not in (group.KIND_AUTO, group.KIND_CPU, group.KIND_GPU):
            yield f"{where}.kind: not supported by Turnout yet; KIND_CPU, KIND_GPU and KIND_AUTO are"
        if group.gpus and group.kind == group.KIND_CPU:
            yield f"{where}.gpus: {list(group.gpus)} with KIND_CPU; remove one of the two"
        if any(gpu < 0 for gpu in group.gpus) or len(set(group.gpus)) != len(group.gpus):
            yield f"{where}.gpus: {list(group.gpus)}; expected each GPU's number once"


def _accelerators(said: Any) -> Iterator[str]:
    field = "optimization.execution_accelerators.gpu_execution_accelerator"
    asked = said.execution_accelerators.gpu_execution_accelerator
    if len(asked) > 1:
        yield f"{field}: {len(asked)} of them; Turnout takes one"
    if asked and said.cuda.graphs:
        yield "optimization.cuda.graphs: with an accelerator there are none; remove one of the two"
    for index, each in enumerate(asked):
        where = f"{field}[{index}]"
        if each.name != "tensorrt":
            yield f"{where}.name: {each.name!r}; Turnout has 'tensorrt' alone"
        for name in sorted(each.parameters):
            yield from _tensorrt(f"{where}.parameters[{name!r}]", name, each.parameters[name])


def _tensorrt(where: str, name: str, value: str) -> Iterator[str]:
    match name:
        case "precision_mode":
            if value not in PRECISIONS:
                yield f"{where}: {value!r}; one of {', '.join(PRECISIONS)}"
        case "max_workspace_size_bytes":
            if not (value.isascii() and value.isdigit() and 0 < int(value) <= WORKSPACE_BYTES_MAX):
                yield f"{where}: {value!r}; expected a number of bytes up to {WORKSPACE_BYTES_MAX}"
        case "trt_engine_cache_enable":
            if value.lower() not in SWITCHES:
                yield f"{where}: {value!r}; one of {', '.join(SWITCHES)}"
        case _:
            known = "precision_mode, max_workspace_size_bytes and trt_engine_cache_enable are"
            yield f"{where}: not supported by Turnout; {known}"


def _batching(said: Any, rows_max: int | None) -> Iterator[str]:
    where = "dynamic_batching"
    if rows_max == 0:
        yield f"{where}: needs max_batch_size > 0; without it no requests are joined"
    for rows in said.preferred_batch_size:
        if not rows_max:
            yield f"{where}.preferred_batch_size: needs max_batch_size"
            break
        yield from _within(f"{where}.preferred_batch_size", rows, 1, rows_max)
    delay_us = said.max_queue_delay_microseconds
    yield from _within(f"{where}.max_queue_delay_microseconds", delay_us, 0, DELAY_US_MAX)
    yield from _within(f"{where}.priority_levels", said.priority_levels, 0, LEVELS_MAX)
    yield from _levels(where, said)


def _levels(where: str, said: Any) -> Iterator[str]:
    levels = said.priority_levels
    if levels and not 1 <= said.default_priority_level <= levels:
        given = said.default_priority_level
        yield f"{where}.default_priority_level: {given} is not between 1 and {levels}"
    if not levels and said.default_priority_level:
        yield f"{where}.default_priority_level: needs priority_levels"
    if levels > 1 and said.preserve_ordering:
        yield f"{where}.preserve_ordering: contradicts priority_levels: priorities change the order"
    for level in sorted(said.priority_queue_policy):
        if not 1 <= level <= levels:
            yield f"{where}.priority_queue_policy[{level}]: no such level; priority_levels is {levels}"


def _warmup(where: str, sample: Any, rows_max: int) -> Iterator[str]:
    yield from _within(f"{where}.batch_size", sample.batch_size, 1, rows_max)
    yield from _within(f"{where}.count", sample.count, 0, WARMUP_RUNS_MAX)
    if not sample.inputs:
        yield f"{where}.inputs: missing"
    for name in sorted(sample.inputs):
        tensor = sample.inputs[name]
        at = f"{where}.inputs[{name!r}]"
        yield from _datatype(at, tensor)
        if any(size < 1 for size in tensor.dims):
            yield f"{at}.dims: {list(tensor.dims)}; a sample has a size in every dimension"
        fill = tensor.WhichOneof("input_data_type")
        if fill is None or (fill != "input_data_file" and not getattr(tensor, fill)):
            yield f"{at}: expected zero_data: true or random_data: true"
