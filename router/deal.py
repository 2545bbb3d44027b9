"""Are requests dealt as the weights say? A test that may be looked at after every request."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, lgamma, log

from router.table import WHOLE_BP


def log_e_value(counts: Mapping[str, int], weights_bp: Mapping[str, int]) -> float:
    """Return the natural logarithm of the evidence against the weights, in what was drawn at random so far.

    The likelihood of the counts under a Dirichlet(1/2, ..., 1/2) mixture of weights, over that under the
    configured ones. If these are right its expectation is 1 at any time, so the probability that it *ever*
    reaches 1/alpha is alpha at most (Ville 1939), however often one looks.

    Parameters
    ----------
    counts : mapping
        Draws by version.
    weights_bp : mapping
        Configured weights by version, which add up to `WHOLE_BP`.
    """
    live = [version for version, weight_bp in weights_bp.items() if weight_bp]
    if any(count and version not in live for version, count in counts.items()):
        return inf  # What has no weight was drawn: no more evidence is needed.
    drawn = [counts.get(version, 0) for version in live]
    half = len(live) / 2
    mixture = lgamma(half) - lgamma(half + sum(drawn))
    mixture += sum(lgamma(count + 0.5) - lgamma(0.5) for count in drawn)
    configured = sum(
        count * log(weights_bp[version] / WHOLE_BP) for version, count in zip(live, drawn, strict=True)
    )
    return mixture - configured
