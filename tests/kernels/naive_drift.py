"""What each kernel of drift means, in the plainest NumPy: slow, obvious, and the specification."""

from __future__ import annotations

from collections import Counter

import numpy as np

from kernels import loglinear, outputs
from kernels.fold import INFINITE, NAN, REACHED, Z_MAX


@np.errstate(over="ignore")
def fold(x, edges, shift, sums, extremes, counts):
    for row in x:
        for f, value in enumerate(row):
            counts[NAN, f] += np.isnan(value)
            counts[INFINITE, f] += np.isinf(value)
            counts[REACHED:, f] += value >= edges[:, f]
            if np.isfinite(value):
                z = np.clip((np.float64(value) - shift[0, f]) * shift[1, f], -Z_MAX, Z_MAX)
                sums[:, f] += z, z * z
                extremes[0, f] = min(extremes[0, f], value)
                extremes[1, f] = max(extremes[1, f], value)


def cell(value):
    if np.isnan(value):
        return loglinear.NAN
    if value < 0:
        return 2 * loglinear.TINY - cell(-value)
    if np.isinf(value):
        return loglinear.POSITIVE_INFINITY
    positive = loglinear.edges()[loglinear.TINY - 1 :]
    return loglinear.TINY + int((np.float64(value) >= positive).sum())


def loglinear_count(x, counts):
    for row in x:
        for f, value in enumerate(row):
            counts[cell(value), f] += 1


def count(codes, alphabet, sizes, counts):
    for f, column in enumerate(codes.T.tolist()):
        known = alphabet[: sizes[f], f].tolist()
        for code in column:
            counts[known.index(code) if code in known else len(alphabet), f] += 1


def learn(codes, alphabet, sizes, counts):
    for f, column in enumerate(codes.T.tolist()):
        known = Counter(dict(zip(alphabet[: sizes[f], f].tolist(), counts[:, f].tolist(), strict=False)))
        for code in column:
            if code in known or len(known) < len(alphabet):
                known[code] += 1
            else:
                counts[-1, f] += 1
        sizes[f] = len(known)
        for at, code in enumerate(sorted(known)):
            alphabet[at, f], counts[at, f] = code, known[code]


def scores(x, classes, confidence, entropy):
    for at, row in enumerate(x.astype(np.float64)):
        classes[at] = outputs.NO_CLASS if np.isnan(row).any() else int(row.argmax())
        if not np.isfinite(row.max()):
            confidence[at] = entropy[at] = np.nan
            continue
        if (row >= 0).all() and abs(sum(row.tolist()) - 1) <= outputs.OFF_MAX:
            chances = row
        else:
            powers = np.exp(row - row.max())
            chances = powers / powers.sum()
        some = chances[chances > 0]
        confidence[at] = chances.max()
        entropy[at] = 0 if len(row) == 1 else np.clip(-(some * np.log(some)).sum() / np.log(len(row)), 0, 1)


def first(x, out):
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
        each = [wide.mean(axis=2), wide.std(axis=2), wide.min(axis=2), wide.max(axis=2)]
    out[:] = np.stack(each, axis=2).reshape(out.shape)


def last(x, out):
    first(x.transpose(0, 2, 1), out)


def project(x, signs, out):
    out[:] = 0
    with np.errstate(invalid="ignore"):
        for f in range(x.shape[1]):
            out += x[:, f, None] * signs[f]
