"""How do the demo's digits change? As cameras and hands do: turned, in noise, under another light.

Streams are drawn with replacement from the rows that nobody learned from, a third of those that the demo's
profile is made of. That is not the profile's own distribution, as no live stream is, but near enough: over
100,000 rows the largest PSI behind which there was evidence was 0.06, where an alarm takes 0.1. A profile of the
learned rows alone would not do: a model is surer of them than of others, so that its answers to the unchanged
stream drifted from it in 2 of 6 runs, with a PSI of up to 0.16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
"""float32[rows, 64], from 0 to 16."""
Change = Callable[[Images, np.random.Generator], Images]
SIDE = 8
BRIGHTEST = 16


def held_out(demo: Path) -> Images:
    """Return the images of a demo laid out in `demo` that nobody learned from."""
    with np.load(demo / "rows" / "digits.npz") as rows:
        images: Images = rows["image"][rows["held_out"]]
    return images


def stream(images: Images, change: Change, rows: int, block: int, seed: int) -> Iterator[Images]:
    """Yield blocks of images drawn at random and changed, `rows` in all."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, block):
        yield change(images[rng.integers(0, len(images), min(block, rows - start))], rng)


def plain(images: Images, rng: np.random.Generator) -> Images:
    """Return them as they are."""
    return images


def rotated(images: Images, rng: np.random.Generator) -> Images:
    """Return them turned by 15 degrees about their middle, values in between interpolated."""
    middle, angle = (SIDE - 1) / 2, np.deg2rad(15)
    down, right = np.mgrid[:SIDE, :SIDE] - middle
    x = np.cos(angle) * right + np.sin(angle) * down + middle
    y = np.cos(angle) * down - np.sin(angle) * right + middle
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    framed = np.pad(images.reshape(-1, SIDE, SIDE), [(0, 0), (2, 3), (2, 3)])
    turned = np.zeros((len(images), SIDE, SIDE))
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - dy - (y - top)) * np.abs(1 - dx - (x - left))
        turned += share * framed[:, top + dy + 2, left + dx + 2]
    return turned.reshape(len(images), -1).astype(np.float32)


def noisy(images: Images, rng: np.random.Generator) -> Images:
    """Return them with noise of an eighth of the brightest, cut off where it leaves the range."""
    noise = rng.normal(0, BRIGHTEST / 8, images.shape)
    return np.clip(images + noise, 0, BRIGHTEST).astype(np.float32)


def reexposed(images: Images, rng: np.random.Generator) -> Images:
    """Return them a fifth darker."""
    return images * np.float32(0.8)


CHANGES: dict[str, Change] = {"rotated": rotated, "noisy": noisy, "reexposed": reexposed}
