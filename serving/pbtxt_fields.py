"""Is a text a config.pbtxt of which every field is read?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

UNSAID = -(1 << 31)
"""Stands for a `max_batch_size` that is absent, which protobuf alone does not tell from 0."""

_QUEUE: dict[str, Any] = {
    "timeout_action": {}, "default_timeout_microseconds": {},
    "allow_timeout_override": {}, "max_queue_size": {},
}  # fmt: skip
READ: dict[str, Any] = {
    "name": {}, "platform": {}, "backend": {}, "max_batch_size": {}, "default_model_filename": {},
    "version_policy": {"latest": {"num_versions": {}}, "all": {}, "specific": {"versions": {}}},
    "input": {"name": {}, "data_type": {}, "dims": {}, "optional": {}},
    "output": {"name": {}, "data_type": {}, "dims": {}, "label_filename": {}},
    "instance_group": {"name": {}, "count": {}, "kind": {}, "gpus": {}},
    "dynamic_batching": {
        "preferred_batch_size": {}, "max_queue_delay_microseconds": {}, "preserve_ordering": {},
        "priority_levels": {}, "default_priority_level": {},
        "default_queue_policy": _QUEUE, "priority_queue_policy": _QUEUE,
    },
    "optimization": {
        "graph": {"level": {}}, "cuda": {"graphs": {}},
        "execution_accelerators": {"gpu_execution_accelerator": {"name": {}, "parameters": {}}},
    },
    "model_warmup": {
        "name": {}, "batch_size": {}, "count": {},
        "inputs": {"data_type": {}, "dims": {}, "zero_data": {}, "random_data": {}},
    },
    "response_cache": {},
    "parameters": {"string_value": {}},
}  # fmt: skip
"""The fields that are read. A message without any here may be there as long as it sets nothing."""

LATER = {
    "response_cache.enable", "input.reshape", "output.reshape", "metric_tags", "model_metrics",
    "optimization.execution_accelerators.cpu_execution_accelerator", "model_warmup.inputs.input_data_file",
}  # fmt: skip
"""Fields that Turnout is going to read."""


class ConfigMistake(ValueError):
    """A config.pbtxt that cannot be used: one line per mistake, each with the field's full name."""


def message(text: str) -> Any:
    """Return the protobuf that `text` says, with `max_batch_size` UNSAID if it does not say it.

    Raises
    ------
    ConfigMistake
        If it is not protobuf text, or names a field or a value that does not exist.
    """
    # Imported here: 13 MiB that only a server with a config.pbtxt needs.
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig as Message

    try:
        text_format.Parse(text, Message())
        return text_format.Merge(text, Message(max_batch_size=UNSAID))
    except text_format.ParseError as error:
        raise ConfigMistake(_explain(str(error), Message.DESCRIPTOR.file.pool)) from None
    except RecursionError:
        raise ConfigMistake("nested too deeply") from None


def message_of_json(text: str) -> Any:
    """Return the protobuf that `text` says in JSON; raises as `message`."""
    from google.protobuf import json_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig as Message

    if not text.lstrip().startswith("{"):  # An array passes for a message that says nothing.
        raise ConfigMistake("not a JSON object")
    try:
        return json_format.Parse(text, Message(max_batch_size=UNSAID), max_recursion_depth=20)
    except json_format.ParseError as error:
        raise ConfigMistake(_explain_json(str(error), Message.DESCRIPTOR.file.pool)) from None
    except RecursionError:
        raise ConfigMistake("nested too deeply") from None


def _explain_json(message: str, pool: Any) -> str:
    """Turn the parser's message into ours, with the nearest valid name."""
    if field := re.search(r'Message type "([\w.]+)" has no field named "([^"]*)"', message):
        names = [each.name for each in pool.FindMessageTypeByName(field[1]).fields]
        kind = field[1].rpartition(".")[2]
        return f"unknown field {field[2][:80]!r} in {kind}; {_nearest(field[2][:80], names)}"
    return message.replace("\n", " ")[:300]


def _explain(message: str, pool: Any) -> str:
    """Turn the parser's message into ours, with the nearest valid name."""
    line, _, rest = message.partition(":")
    where = f"line {line}: " if line.isdigit() else ""
    if field := re.search(r'Message type "([\w.]+)" has no field named "(\w+)"', rest):
        names = [each.name for each in pool.FindMessageTypeByName(field[1]).fields]
        kind = field[1].rpartition(".")[2]
        return f"{where}unknown field {field[2]!r} in {kind}; {_nearest(field[2], names)}"
    if value := re.search(r'Enum type "([\w.]+)" has no value named (\w+)', rest):
        names = [each.name for each in pool.FindEnumTypeByName(value[1]).values]
        return f"{where}unknown value {value[2]!r}; {_nearest(value[2], names)}"
    return where + re.sub(r"^\d+ : ", "", rest)[:300]


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"


def ignored(said: Any, known: dict[str, Any] = READ, path: str = "", shown: str = "") -> Iterator[str]:
    """Yield a line for each field that is set but not `known`.

    `path` is where `said` is in the schema, `shown` the same with positions and keys.
    """
    for field, value in said.ListFields():
        inner, name = path + field.name, shown + field.name
        if field.name not in known:
            when = "not supported by Turnout yet" if inner in LATER else "not supported by Turnout"
            yield f"{name}: {when}; remove it"
        elif field.message_type is not None:
            for at, part in _parts(field, value):
                yield from ignored(part, known[field.name], f"{inner}.", f"{name}{at}.")


def _parts(field: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the messages in a field, each with what tells it from the others of the field."""
    if field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is not None:
            yield from ((f"[{key!r}]", value[key]) for key in value)
    elif field.is_repeated:
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    else:
        yield "", value
