"""What a version of a model is: its signature, its policies, and the digest that it is known by."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from serving.wire import Datatype, TensorSpec


class Device(StrEnum):
    """Where a version runs; AUTO is the GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How long a request may wait, and how many may (Triton's ModelQueuePolicy).

    `timeout_us` 0 is no timeout of the queue's own. With `delay` a request that timed out is put
    behind all others instead of being rejected. `requests_max` 0 leaves it to the server's limit.
    """

    timeout_us: int = 0
    delay: bool = False
    allow_override: bool = False
    requests_max: int = 0


@dataclass(frozen=True, slots=True)
class Batching:
    """When requests share a run (Triton's dynamic_batching). Changeable while serving.

    `preferred_rows` are tried first, largest first; with `delay_us` 0 nothing waits for more.
    Priority 1 is the highest of `priority_levels`; 0 levels is one queue.
    """

    preferred_rows: tuple[int, ...] = ()
    delay_us: int = 0
    preserve_order: bool = False
    priority_levels: int = 0
    priority_default: int = 0
    default_policy: QueuePolicy = QueuePolicy()
    priority_policies: dict[int, QueuePolicy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmupTensor:
    """A tensor of a `model_warmup` sample, without the batch dimension. `fill` is zero or random.

    `datatype` is what the file says of it, checked against the model's when a version is completed.
    """

    name: str
    shape: tuple[int, ...]
    fill: str
    datatype: Datatype | None = None


@dataclass(frozen=True, slots=True)
class Warmup:
    """A sample that is run `count` times before a version is ready (Triton's model_warmup)."""

    name: str
    rows: int
    tensors: tuple[WarmupTensor, ...]
    count: int = 1


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model are loaded: the `latest` n, or `specific` ones, or all."""

    latest: int = 1
    specific: tuple[int, ...] = ()
    every: bool = False

    @property
    def by_age(self) -> bool:
        """Whether an older version takes the place of one that cannot be loaded."""
        return not self.every and not self.specific

    def choose(self, present: list[int]) -> list[int]:
        """Return those of the versions `present` that are to be loaded, ascending."""
        ordered = sorted(present)
        if self.every:
            return ordered
        if self.specific:
            return [version for version in ordered if version in self.specific]
        return ordered[-self.latest :]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's config.pbtxt, as far as it was written; what is absent follows from the ONNX file.

    `inputs` and `outputs` hold the declared tensors with the whole shape, batch included where
    `rows_max` > 0. `rows_max` None means that the file does not say.
    """

    name: str
    rows_max: int | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    """Output name to the file of its labels, relative to the model's folder."""
    versions: VersionPolicy = VersionPolicy()
    instances: int = 1
    device: Device = Device.AUTO
    gpus: tuple[int, ...] = ()
    batching: Batching | None = None
    warmup: tuple[Warmup, ...] = ()
    graph_level: int | None = None
    """Triton's optimization.graph.level: -1 basic, 1 extended, 0 all; None leaves it to ONNX Runtime."""
    graphs: bool | None = None
    """Triton's optimization.cuda.graphs; None leaves it to the server's configuration."""
    tensorrt: dict[str, str] | None = None
    """Parameters of Triton's accelerator `tensorrt`; None if the file does not ask for it."""
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version's files in the content-addressed store, verified and never written again."""

    model: str
    version: int
    digest: str
    """SHA-256 in hexadecimal, over the names and contents of all of the version's files."""
    path: Path
    """The ONNX file itself."""
    bytes_total: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A servable version, complete: what the metadata says and what the engine enforces.

    `rows_max` 0 means that requests are never joined and shapes are exactly the ONNX graph's.
    """

    artifact: Artifact
    config: ModelConfig
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_max: int
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.artifact.model}@{self.artifact.version}"

    def input(self, name: str) -> TensorSpec | None:
        """Return the input called `name`."""
        return next((each for each in self.inputs if each.name == name), None)
