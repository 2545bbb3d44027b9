"""Which numbers and codes does a look take out of rows? In NumPy: the slow form of what kernels do live."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import outputs, projection
from serving.drift.view import CONFIDENCE, RUN, Look, View

STRING_CHARACTERS_MAX = 256
"""What is told apart of a string: its beginning. Longer ones take longer to hash, on the event loop."""
CODES_MAX = 16384
"""Strings whose codes are remembered."""

Rows = NDArray[Any]
"""[n, elements]: rows as they wait to be counted, of the look's `dtype`."""


class Misfit(ValueError):
    """A tensor is not whole rows of what is looked at."""


def rows(look: Look, array: NDArray[Any]) -> Rows:
    """Return a tensor as the rows that are looked at: flat, thinned out, strings as their codes.

    Raises
    ------
    Misfit
        If its shape is another.
    """
    if not look.fits(array.shape):
        raise Misfit(f"expected rows of {list(look.shape)}, got {list(array.shape)} - at {look}")
    if array.dtype == np.object_:
        array = codes(array)
    return array.reshape(-1, look.elements) if look.step == 1 else _thinned(look, np.ascontiguousarray(array))


def _thinned(look: Look, array: NDArray[Any]) -> Rows:
    """Return every so manieth run of each row: of each channel where its pixels lie together."""
    row, size = math.prod(look.shape), array.itemsize
    channels = look.shape[0] if look.channel_axis == 0 else 1
    run = RUN * (look.shape[2] if look.channel_axis == 2 else 1)
    shape = (array.size // row, channels, look.elements // channels // run, run)
    strides = (row * size, row // channels * size, look.step * run * size, size)
    flat = array.reshape(-1).view(np.uint8)
    # 3 us for an image, where `as_strided` takes 6 to 17.
    return np.ndarray(shape, array.dtype, flat, 0, strides).reshape(-1, look.elements)


def panels(look: Look, taken: Rows) -> Mapping[str, NDArray[Any]]:
    """Return the matrix of each panel: float32 or float64 [n, F] for numbers, int64 [n, F] for categories."""
    match look.view:
        case View.CODES:
            return {"codes": taken.astype(np.int64)}
        case View.FEATURES:
            return {"values": taken.astype(look.numbers)}
        case View.CHANNELS:
            return {"channels": _channels(look, taken.astype(look.numbers))}
        case View.PROJECTION:
            signs = projection.matrix(look.elements)
            return {"projection": projection.project(taken.astype(np.float32), signs)}
        case View.SCORES:
            return _scores(look, taken.astype(look.numbers))


@lru_cache(CODES_MAX)
def code(text: str) -> int:
    """Return the code of a string: the same in every process, and negative as often as not."""
    beginning = text[:STRING_CHARACTERS_MAX].encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(beginning, digest_size=8).digest(), "little", signed=True)


def codes(array: NDArray[Any]) -> NDArray[np.int64]:
    """Return the codes of strings, in the same shape."""
    listed = [code(text[:STRING_CHARACTERS_MAX]) for text in array.reshape(-1).tolist()]
    return np.array(listed, np.int64).reshape(array.shape)


def _channels(look: Look, taken: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    channels = look.shape[look.channel_axis]
    if look.channel_axis == 0:
        pixels = taken.reshape(-1, channels, look.elements // channels)
    else:
        pixels = taken.reshape(-1, look.elements // channels, channels).transpose(0, 2, 1)
    wide = pixels.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        each = [wide.mean(axis=2), wide.std(axis=2), wide.min(axis=2), wide.max(axis=2)]
        return np.stack(each, axis=2).reshape(-1, 4 * channels).astype(look.numbers)


def _scores(look: Look, taken: NDArray[np.floating[Any]]) -> dict[str, NDArray[Any]]:
    classes, confidence, entropy = scores(taken)
    made: dict[str, NDArray[Any]] = {
        "class": classes[:, None],
        CONFIDENCE: np.stack([confidence, entropy], axis=1),
    }
    if len(look.panels) == 3:
        made["scores"] = taken
    return made


def scores(
    taken: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Return class, confidence and entropy of rows of scores; see `kernels.outputs`."""
    classes = np.empty(len(taken), np.int64)
    confidence, entropy = np.empty((2, len(taken)), np.float32)
    outputs.scores(np.ascontiguousarray(taken), classes, confidence, entropy)
    return classes, confidence, entropy
