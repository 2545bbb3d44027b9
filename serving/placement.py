"""What does each replica of the gateway get of a cluster, and is there room for one more?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.config import Config, ConfigError
from serving.model import Device

ROUNDED = 1e-6
"""What fractions may be off: ten times 0.1 is not quite 1."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica reserves of the cluster, and how many more may run while they are replaced."""

    cpus: float
    gpus: float
    surge_percent: int


def share(config: Config, cpus: float, gpus: float) -> Resources:
    """Divide what the cluster has; a GPU is used where there is one, unless the CPU is asked for.

    Raises
    ------
    ConfigError
        If the cluster has less than the configuration asks for.
    """
    ray, replicas = config.ray, config.ray.replicas
    each = ray.gpus
    if not each and config.engine.device is not Device.CPU:
        neighbours = math.ceil(replicas / max(math.floor(gpus), 1))
        each = math.floor(min(gpus, 1.0) / neighbours * 100 + ROUNDED) / 100
    if config.engine.device is Device.GPU and not gpus:
        raise ConfigError('engine.device = "gpu": this machine shows no GPU; "auto" takes one where there is')
    if each > 1 and not each.is_integer():
        raise ConfigError(f"ray.gpus = {each:g}: more than one GPU is a whole number of them")
    on = {"gpus": on_gpus(each, gpus), "cpus": on_cpus(ray.cpus, cpus)}
    for name, wanted, there in (("gpus", each, gpus), ("cpus", ray.cpus, cpus)):
        if replicas > on[name]:
            raise ConfigError(
                f"ray.{name} = {wanted:g} for each of {replicas} replicas: the cluster has {there:g}"
            )
    return Resources(ray.cpus, each, 100 // replicas if min(on.values()) > replicas else 0)


def on_cpus(each: float, cpus: float) -> float:
    """Return how many replicas have room on so many cores, which they may divide as they like."""
    return math.floor(cpus / each + ROUNDED) if each else math.inf


def on_gpus(each: float, gpus: float) -> float:
    """Return how many replicas have room on so many GPUs: what is less than one is a part of one GPU."""
    if not each:
        return math.inf
    if each > 1:
        return math.floor(gpus / each)
    whole = math.floor(gpus)
    return whole * math.floor(1 / each + ROUNDED) + math.floor((gpus - whole) / each + ROUNDED)
