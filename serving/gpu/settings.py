"""What can be configured of the GPUs that versions run on?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from serving.section import Section

Provider = Literal["tensorrt", "cuda"]


class Gpu(Section):
    """How versions run on a GPU, where there is one."""

    providers: tuple[Provider, ...] = Field(("cuda",), min_length=1, max_length=2)
    """ONNX Runtime's, in the order in which they are asked; one that does not start is an error."""
    allow_cpu: bool = False
    """Whether a version may have nodes on the CPU that compute more than shapes."""
    memory_bytes_max: int = Field(0, ge=0, le=1 << 44)
    """Of one version, its weights not counted; 0 sets no limit."""
    arena: Literal["as_requested", "power_of_two"] = "as_requested"
    """By how much a version's memory grows when it needs more."""
    convolution_search: Literal["heuristic", "exhaustive", "default"] = "heuristic"
    """How an algorithm is chosen for each shape of a convolution; `exhaustive` tries all of them."""
    tf32: bool = True
    """Whether products of 32-bit floats may be computed with 10 bits of mantissa."""
    graphs: bool = True
    """Whether runs are captured as CUDA graphs, where the model permits it and its file does not say."""
    batch_ms_max: float = Field(0.0, ge=0, le=60_000)
    """Longest run that a batch is meant to have; 0 sets no limit."""
    spare_bytes: int = Field(256 << 20, ge=0, le=1 << 40)
    """Memory of a GPU that is left free when a version is loaded."""
    leak_bytes_max: int = Field(2 << 30, ge=0, le=1 << 44)
    """How much versions may have failed to give back before the replica is replaced; 0 never replaces it."""

    @field_validator("providers")
    @classmethod
    def _check_providers(cls, value: tuple[Provider, ...]) -> tuple[Provider, ...]:
        if value not in (("cuda",), ("tensorrt", "cuda")):
            raise ValueError('expected ["cuda"] or ["tensorrt", "cuda"]: CUDA takes what TensorRT leaves')
        return value
