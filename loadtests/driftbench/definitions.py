"""What do SciPy, Evidently and NannyML make of the fixture of docs/statistics.md, beside Turnout?

    build/peers/bin/python -m loadtests.driftbench.definitions

Needs scikit-learn for the fixture; of the others it asks those that are installed. NannyML 0.13.1 wants
a newer NumPy than the rest of requirements/peers.txt, hence an environment of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from kernels import distance

Column = NDArray[np.float64]
Told = tuple[str, str, float]
RADIUS: Column = load_breast_cancer().data[:, 0]
REFERENCE, LIVE = RADIUS[:300], RADIUS[300:]
CATEGORIES = tuple(np.digitize(half, [10, 12, 14, 16, 18]) for half in (REFERENCE, LIVE))
"""The same as six categories, all of which occur on both sides."""


def turnout() -> Iterator[Told]:
    """Yield ours: ten quantile bins and two beyond, and six categories."""
    edges = np.quantile(REFERENCE, np.linspace(0, 1, 11)).astype(np.float32)
    edges[-1] = np.nextafter(edges[-1], np.float32(np.inf))
    numbers = [
        np.bincount(np.searchsorted(edges, half.astype(np.float32), side="right"), minlength=12)[None]
        for half in (REFERENCE, LIVE)
    ]
    low, high = np.array([RADIUS.min()]), np.array([RADIUS.max()])
    yield from _distances("numbers", *numbers)
    yield "numbers", "W1", float(distance.w1(*numbers, edges[:, None], low, high)[0])
    yield from _distances("categories", *(np.bincount(half, minlength=6)[None] for half in CATEGORIES))


def _distances(what: str, reference: NDArray[Any], live: NDArray[Any]) -> Iterator[Told]:
    told = distance.between(reference, live, ordered=False)
    yield what, "PSI", float(told.psi[0])
    yield what, "PSI beyond chance", float(told.psi_excess[0])
    yield what, "JS divergence, nats", float(told.js[0])
    yield what, "JS distance, nats", float(np.sqrt(told.js[0]))
    yield what, "JS distance, bits", float(np.sqrt(told.js[0] / np.log(2)))
    yield what, "Hellinger", float(told.hellinger[0])
    yield what, "TV", float(told.tv[0])
    yield what, "chi2", float(told.chi2[0])
    yield what, "chi2 p", float(told.p[0])
    if what == "numbers":
        yield what, "KS", float(distance.ks(reference, live)[0])


def scipy() -> Iterator[Told]:
    """Yield SciPy's, of the values themselves, or of the counts where it takes counts."""
    from scipy import stats
    from scipy.spatial import distance as between

    test = stats.ks_2samp(REFERENCE, LIVE)
    yield "numbers", "KS", float(test.statistic)
    yield "numbers", "KS p", float(test.pvalue)
    yield "numbers", "W1", float(stats.wasserstein_distance(REFERENCE, LIVE))
    counts = [np.bincount(half, minlength=6) for half in CATEGORIES]
    yield "categories", "JS distance, nats", float(between.jensenshannon(*counts))
    table = stats.chi2_contingency(np.stack(counts), correction=False)
    yield "categories", "chi2", float(table.statistic)
    yield "categories", "chi2 p", float(table.pvalue)


def evidently() -> Iterator[Told]:
    """Yield Evidently's score of each of its tests that has a name here."""
    import pandas as pd
    from evidently.legacy.calculations import stattests
    from evidently.legacy.core import ColumnType

    tests = {
        "PSI": "psi_stat_test",
        "JS distance, nats": "jensenshannon_stat_test",
        "KL": "kl_div_stat_test",
        "Hellinger": "hellinger_stat_test",
        "KS p": "ks_stat_test",
        "W1 in deviations": "wasserstein_stat_test",
        "chi2 p": "chi_stat_test",
        "TV p": "tvd_test",
    }
    halves = {"numbers": (REFERENCE, LIVE), "categories": CATEGORIES}
    kinds = {"numbers": ColumnType.Numerical, "categories": ColumnType.Categorical}
    for what, pair in halves.items():
        for name, test in tests.items():
            stat = getattr(stattests, test, None)
            if stat is not None and kinds[what] in stat.allowed_feature_types:
                told = stat(pd.Series(pair[0]), pd.Series(pair[1]), kinds[what], None)
                yield what, name, float(told.drift_score)


def nannyml() -> Iterator[Told]:
    """Yield NannyML's value of each of its univariate methods."""
    import pandas as pd
    from nannyml.chunk import DefaultChunker
    from nannyml.drift.univariate.methods import FeatureType, MethodFactory
    from nannyml.thresholds import ConstantThreshold

    methods = {
        "numbers": ("jensen_shannon", "kolmogorov_smirnov", "wasserstein", "hellinger"),
        "categories": ("jensen_shannon", "chi2", "l_infinity", "hellinger"),
    }
    kinds = {"numbers": FeatureType.CONTINUOUS, "categories": FeatureType.CATEGORICAL}
    halves = {"numbers": (REFERENCE, LIVE), "categories": CATEGORIES}
    for what, keys in methods.items():
        reference, live = (pd.Series(half, name=what) for half in halves[what])
        for key in keys:
            threshold = ConstantThreshold(0.0, 0.1)
            method = MethodFactory.create(key, kinds[what], chunker=DefaultChunker(), threshold=threshold)
            yield what, key, float(method.fit(reference).calculate(live))


def main() -> int:
    """Print what each of them says, and which are not here."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for who, ask in (("turnout", turnout), ("scipy", scipy), ("evidently", evidently), ("nannyml", nannyml)):
        if who != "turnout" and importlib.util.find_spec(who) is None:
            print(f"{who}: not installed here; requirements/peers.txt says how to have it")
            continue
        version = importlib.metadata.version(who) if who != "turnout" else ""
        for what, name, value in ask():
            print(f"{who} {version}".strip(), what, name, repr(value), sep=" | ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
