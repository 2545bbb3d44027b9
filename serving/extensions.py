"""Which extensions of the protocol are true of a gateway?

https://github.com/triton-inference-server/server, docs/protocol. What is not listed answers 501.
"""

from __future__ import annotations

from collections.abc import Iterable

from serving.config import Config

ALWAYS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
)


def extensions(config: Config, memory: Iterable[str] = ()) -> list[str]:
    """Return what a gateway of this configuration has, and those kinds of shared `memory`."""
    found = [*ALWAYS, *memory]
    if config.metrics.enabled:
        found.append("statistics")
    return sorted(found)
