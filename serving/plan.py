"""What is to be loaded of a model, and what was tried lately and is not worth trying again yet?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serving import pbtxt
from serving.model import Artifact, ModelConfig, VersionPolicy
from serving.orders import Order
from serving.repository import Candidate

RETRY_S = 300.0
"""How long a version that could not be loaded is left alone while it stays as it is."""
ROUNDS_MAX = 8
"""How many times older versions take the place of refused ones before a model is left as it is."""


@dataclass(slots=True)
class Plan:
    """What is to be loaded of one model.

    `refused` are the versions that were tried in earlier rounds, `lost` those of this one. `kept`
    says of versions whose folder holds something else by now, or nothing usable, what it is; `left`
    are served, could not be loaded anew, and go on as they are.
    """

    model: str
    config: ModelConfig
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: frozenset[int] = frozenset()
    lost: set[int] = field(default_factory=set)
    kept: dict[str, str] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    gone: bool = False
    """The repository has no folder for the model any more, or the operator had it unloaded: it ends."""
    faults: dict[str, str] = field(default_factory=dict)
    """Why versions could not be loaded, or not anew."""

    @property
    def whole(self) -> bool:
        """Whether all that should answer is there, so that what is not planned can go."""
        return not self.lost and bool(self.artifacts or not self.refused)


def runs_alike(one: ModelConfig, other: ModelConfig) -> bool:
    """Say whether a version loaded under `one` may serve under `other`, batched and described anew."""
    return _loaded_by(one) == _loaded_by(other)


def _loaded_by(config: ModelConfig) -> ModelConfig:
    return replace(config, batching=None, versions=VersionPolicy(), labels={}, parameters={})


def configured(candidate: Candidate, order: Order) -> ModelConfig:
    """Return how a model is configured: by the operator's order, or by its file; raises as `pbtxt.read`."""
    if order.config:
        return pbtxt.parse_json(order.config, candidate.name)
    if candidate.config is not None:
        return pbtxt.read(candidate.config, candidate.name)
    return ModelConfig(candidate.name)


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that could not be loaded: what it was, how it was configured, and until when that counts."""

    digest: str
    config: ModelConfig
    until_s: float


class Failures:
    """The versions that failed lately. Without it each look at the repository would try them anew."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Failure] = {}

    def note(self, artifact: Artifact, config: ModelConfig, now_s: float) -> None:
        """Remember that this version could not be loaded."""
        key = (artifact.model, artifact.version)
        self._known[key] = Failure(artifact.digest, config, now_s + RETRY_S)

    def recent(self, artifact: Artifact, config: ModelConfig, now_s: float) -> bool:
        """Say whether the very same was tried within `RETRY_S`."""
        failure = self._known.get((artifact.model, artifact.version))
        if failure is None or now_s >= failure.until_s:
            return False
        return failure.digest == artifact.digest and failure.config == config

    def forget(self, model: str) -> None:
        """Try what failed of a model anew when it is asked for."""
        self._known = {key: each for key, each in self._known.items() if key[0] != model}

    def keep(self, versions: Mapping[str, set[int]]) -> None:
        """Forget all but these versions of these models."""
        self._known = {key: each for key, each in self._known.items() if key[1] in versions.get(key[0], ())}
