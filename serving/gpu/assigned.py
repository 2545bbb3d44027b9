"""Which nodes of a version run elsewhere than on the device that it was put on?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

RECORD = "session.record_ep_graph_assignment_info"
"""Setting of a session of ONNX Runtime that makes it remember."""
CPU = "CPUExecutionProvider"
SHAPE_OPERATORS = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod",
    "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Reshape", "ScatterND", "Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile",
    "Unsqueeze", "Where",
})  # fmt: skip
"""What shapes are computed with, and PyTorch the scale of attention: ONNX Runtime leaves these few numbers
to the CPU on purpose."""
OPERATORS_TOLD_MAX = 8
NAME_CHARACTERS_MAX = 60


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph, and the provider that runs it. ONNX's own domain is empty."""

    provider: str
    domain: str
    operator: str
    name: str


def nodes(session: Any) -> list[Node]:
    """Return the nodes of a session that was opened with `RECORD`, as they were before any were fused."""
    return [
        Node(part.ep_name, each.domain, each.op_type, each.name)
        for part in session.get_provider_graph_assignment_info()
        for each in part.get_nodes()
    ]


def strays(assigned: Iterable[Node]) -> list[Node]:
    """Return those on the CPU that do more than shapes need."""
    return [
        each
        for each in assigned
        if each.provider == CPU
        and (each.domain not in ("", "ai.onnx") or each.operator not in SHAPE_OPERATORS)
    ]


def told(astray: Sequence[Node], of: int) -> str:
    """Return what there is to say of nodes that stray, out of so many."""
    counts = Counter(each.operator for each in astray)
    first = {each.operator: each.name[:NAME_CHARACTERS_MAX] for each in reversed(astray)}
    shown = [
        f"{operator} ({first[operator]!r}{f' and {count - 1} more' if count > 1 else ''})"
        for operator, count in counts.most_common(OPERATORS_TOLD_MAX)
    ]
    rest = len(counts) - len(shown)
    more = f" and {rest} other operators" if rest else ""
    return f"{len(astray)} of {of} nodes would run on the CPU: {', '.join(shown)}{more}"
