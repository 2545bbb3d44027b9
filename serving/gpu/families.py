"""Which metrics are there of GPUs? Triton's, as DCGM feeds them there."""

from __future__ import annotations

from serving.family import Family, Kind, Of

FAMILIES: tuple[Family, ...] = (
    Family(
        "nv_gpu_utilization",
        Kind.GAUGE,
        lambda gpu: gpu.utilization,
        "The part of the time in which the GPU worked, from 0 to 1.",
        of=Of.GPU,
    ),
    Family(
        "nv_gpu_memory_total_bytes",
        Kind.GAUGE,
        lambda gpu: gpu.memory_total_bytes,
        "Memory of the GPU.",
        of=Of.GPU,
    ),
    Family(
        "nv_gpu_memory_used_bytes",
        Kind.GAUGE,
        lambda gpu: gpu.memory_used_bytes,
        "Memory of the GPU that is used, by whomever.",
        of=Of.GPU,
    ),
    Family(
        "nv_gpu_power_usage", Kind.GAUGE, lambda gpu: gpu.power_w, "The GPU's power, in watts.", of=Of.GPU
    ),
    Family(
        "nv_gpu_power_limit",
        Kind.GAUGE,
        lambda gpu: gpu.power_w_max,
        "The bound on the GPU's power, in watts.",
        of=Of.GPU,
    ),
    Family(
        "nv_energy_consumption",
        Kind.COUNTER,
        lambda gpu: gpu.energy_j,
        "Energy that the GPU took since its driver was loaded, in joules.",
        of=Of.GPU,
    ),
)
