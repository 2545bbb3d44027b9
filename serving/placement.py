"""What does each replica of the gateway get of a cluster, and is there room for one more?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.config import Config, ConfigError
from serving.model import Device


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
        each = 1.0 if gpus >= replicas else math.floor(gpus / replicas * 100) / 100
    if config.engine.device is Device.GPU and not gpus:
        raise ConfigError('engine.device = "gpu": this machine shows no GPU; "auto" takes one where there is')
    for name, wanted, there in (("gpus", each, gpus), ("cpus", ray.cpus, cpus)):
        if wanted * replicas > there:
            raise ConfigError(
                f"ray.{name} = {wanted:g} for each of {replicas} replicas: the cluster has {there:g}"
            )
    spare = cpus >= ray.cpus * (replicas + 1) and gpus >= each * (replicas + 1)
    return Resources(ray.cpus, each, 100 // replicas if spare else 0)
