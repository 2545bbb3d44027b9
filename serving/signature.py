"""What does an ONNX file take and give, and does its configuration agree with that?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.model import Artifact, ModelConfig, ModelSpec, Warmup
from serving.regular import Refusal, open_regular
from serving.wire import BY_ONNX_TYPE, TensorSpec

Signature = tuple[TensorSpec, ...]
LABELS_BYTES_MAX = 16 << 20


class Disagreement(Refusal):
    """The configuration and the ONNX file contradict each other; the message says both."""


def signature(session: Any) -> tuple[Signature, Signature]:
    """Return the inputs and outputs of an ONNX Runtime session, in the graph's order.

    Graph inputs that have an initializer are optional. Symbolic dimensions are -1.

    Raises
    ------
    Refusal
        If one is not a tensor, or of a type that the protocol does not have.
    """
    required = [_tensor("input", node, optional=False) for node in session.get_inputs()]
    optional = [_tensor("input", node, optional=True) for node in session.get_overridable_initializers()]
    outputs = [_tensor("output", node, optional=False) for node in session.get_outputs()]
    return tuple(required + optional), tuple(outputs)


def _tensor(kind: str, node: Any, *, optional: bool) -> TensorSpec:
    datatype = BY_ONNX_TYPE.get(node.type)
    if datatype is None:
        hint = " (from scikit-learn: convert with zipmap off)" if "map(" in node.type else ""
        raise Refusal(
            f"{kind} {node.name!r} is a {node.type}, which the protocol cannot carry; "
            f"tensors of {', '.join(sorted(BY_ONNX_TYPE))} can be served{hint}"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, shape, optional)


def could_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Say whether the graph leaves the first dimension of every input and output open."""
    return bool(inputs) and all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))


def complete(
    artifact: Artifact,
    config: ModelConfig,
    inputs: Signature,
    outputs: Signature,
    rows_max: int = 0,
    labels: Mapping[str, tuple[str, ...]] | None = None,
) -> ModelSpec:
    """Join what a model's configuration says with what its ONNX file is.

    Inputs that the configuration does not mention are the graph's; where it mentions outputs, only
    those are served, in its order. `rows_max` counts where the configuration does not say: 0, or the
    largest batch if rows were found to be independent of each other. Either way a graph that fixes its
    first dimension is not batched. `labels` is what `read_labels` returned.

    Raises
    ------
    Disagreement
        If the configuration declares what the graph is not.
    """
    asked = rows_max if config.rows_max is None else config.rows_max
    rows = asked if could_batch(inputs, outputs) else 0
    loose = bool(config.rows_max) and not rows
    declared = {spec.name: spec for spec in config.inputs}
    _check_names("input", [spec.name for spec in inputs], list(declared))
    _check_names("output", [spec.name for spec in outputs], [spec.name for spec in config.outputs])
    served = {spec.name: spec for spec in outputs}
    spec = ModelSpec(
        artifact,
        config,
        tuple(_agree("input", declared.get(each.name), each, loose) for each in inputs),
        tuple(_agree("output", each, served[each.name], loose) for each in config.outputs) or outputs,
        rows,
        dict(labels or {}),
    )
    for sample in config.warmup:
        _check_warmup(sample, spec)
    return spec


def _check_names(kind: str, present: list[str], declared: list[str]) -> None:
    for name in declared:
        if name not in present:
            raise Disagreement(f"config.pbtxt declares {kind} {name!r}; the ONNX file has {_listed(present)}")


def _agree(kind: str, declared: TensorSpec | None, graph: TensorSpec, loose: bool) -> TensorSpec:
    """Return the narrower of the two; `loose` lets the graph's first dimension count.

    It does where a batch was declared that the graph does not have.
    """
    if declared is None:
        return graph
    where = f"{kind} {graph.name!r}"
    if declared.datatype is not graph.datatype:
        raise Disagreement(
            f"{where} is {graph.datatype.config_type} in the ONNX file, "
            f"{declared.datatype.config_type} in config.pbtxt"
        )
    if declared.optional and not graph.optional:
        raise Disagreement(f"{where} is optional in config.pbtxt, but the ONNX file has no default for it")
    shape = graph.shape[:1] + declared.shape[1:] if loose else declared.shape
    if not TensorSpec("", graph.datatype, graph.shape).admits(shape):
        raise Disagreement(
            f"{where} has shape {list(graph.shape)} in the ONNX file, {list(declared.shape)} in config.pbtxt "
            "(the batch dimension included; -1 is any size)"
        )
    return TensorSpec(graph.name, graph.datatype, shape, graph.optional)


def _check_warmup(sample: Warmup, spec: ModelSpec) -> None:
    where = f"model_warmup {sample.name!r}"
    given = [tensor.name for tensor in sample.tensors]
    _check_names(f"{where}: input", [each.name for each in spec.inputs], given)
    if sample.rows > max(1, spec.rows_max):
        most = max(1, spec.rows_max)
        raise Disagreement(f"{where}: batch_size {sample.rows}, the model takes at most {most}")
    for each in spec.inputs:
        tensor = next((tensor for tensor in sample.tensors if tensor.name == each.name), None)
        if tensor is None:
            if each.optional:
                continue
            raise Disagreement(f"{where}: input {each.name!r} is missing")
        shape = (sample.rows, *tensor.shape) if spec.rows_max else tensor.shape
        if not each.admits(shape) or tensor.datatype not in (None, each.datatype):
            raise Disagreement(
                f"{where}: input {each.name!r} takes {each.datatype.config_type} {list(each.shape)}, "
                f"the sample is {tensor.datatype.config_type if tensor.datatype else ''} {list(shape)}"
            )


def read_labels(folder: Path, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Read the label files of `config`'s outputs from the model's `folder`, one label a line.

    Raises
    ------
    Refusal
        If one is not a regular file inside the folder, or not UTF-8, or larger than 16 MiB.
    """
    return {output: _lines(folder.resolve(), name) for output, name in config.labels.items()}


def _lines(folder: Path, name: str) -> tuple[str, ...]:
    path = folder / name
    if path.resolve() != path or not path.is_relative_to(folder):
        raise Refusal(f"label_filename {name!r} leads out of the model's folder or through a link")
    with os.fdopen(open_regular(path, name), "rb") as file:
        content = file.read(LABELS_BYTES_MAX + 1)
    if len(content) > LABELS_BYTES_MAX:
        raise Refusal(f"{name}: more than {LABELS_BYTES_MAX} bytes of labels")
    try:
        return tuple(content.decode().splitlines())
    except UnicodeDecodeError:
        raise Refusal(f"{name}: labels must be UTF-8") from None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:20]) or "none"
