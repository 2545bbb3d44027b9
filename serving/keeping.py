"""Which versions stay loaded, whoever wants them: the model's own policy, its route, or a way back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

Key = tuple[str, str]
"""Model and version."""
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is to stay loaded of each model.

    Attributes
    ----------
    policy : mapping
        What the model's own version policy chose when the repository was looked at last.
    must : mapping
        Versions that are live, shadowed or what a rollback would go back to: never dropped.
    good : mapping
        Versions that served well, the latest first: kept warm as far as memory allows.
    """

    policy: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    must: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    good: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))

    def with_policy(self, model: str, versions: frozenset[str]) -> Keeping:
        """Return the same with what a model's policy chose."""
        return replace(self, policy={**self.policy, model: versions})

    def with_must(self, model: str, versions: frozenset[str]) -> Keeping:
        """Return the same with more that a model must have."""
        return replace(self, must={**self.must, model: self.must.get(model, _NOTHING) | versions})

    def without_must(self, model: str, versions: frozenset[str]) -> Keeping:
        """Return the same without some that a model must have."""
        return replace(self, must={**self.must, model: self.must.get(model, _NOTHING) - versions})

    def spared(self, model: str) -> frozenset[str]:
        """Return the versions that a look at the repository alone does not drop."""
        return self.must.get(model, _NOTHING) | frozenset(self.good.get(model, ()))

    def dispensable(self, loaded: Mapping[Key, int], bytes_max: int) -> list[Key]:
        """Return which of the `loaded` versions, given with their bytes, can go.

        Those go that nobody wants, and of those that merely served well once the ones that did so longest
        ago, until the rest is within `bytes_max`.
        """
        drop: list[Key] = []
        kept: list[tuple[int, Key]] = []
        for key in loaded:
            model, version = key
            if version in self.policy.get(model, _NOTHING) or version in self.must.get(model, _NOTHING):
                continue
            good = list(self.good.get(model, ()))
            if version in good:
                kept.append((good.index(version), key))
            else:
                drop.append(key)
        left_bytes = bytes_max
        for _, key in sorted(kept):
            left_bytes -= loaded[key]
            if left_bytes < 0:
                drop.append(key)
        return drop
