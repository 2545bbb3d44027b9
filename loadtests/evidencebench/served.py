"""How does a benchmark have a gateway count evidence without a rollout?

    python -m loadtests.evidencebench.served serve --local --config FILE

is `turnout` with terms of its own for the model S, whatever a control says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from serving import cli
from serving.evidence.evidence import Evidence
from serving.evidence.terms import Terms
from serving.gateway import Gateway

TERMS = Terms("S", frozenset({"1", "2"}), (400_000, 700_000, 1_500_000), 0.55)
"""Quantiles as they may be, so that as many requests are late as are of a version that is stable."""


def main() -> int:
    """Serve so."""
    agree, start = Evidence.agree, Gateway.start

    def agree_always(self: Evidence, _terms: Iterable[Terms]) -> None:
        agree(self, [TERMS])

    async def begin(self: Gateway) -> None:
        await start(self)
        self.evidence.agree(())

    Evidence.agree = agree_always  # type: ignore[method-assign]
    Gateway.start = begin  # type: ignore[method-assign]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
