"""How often does each code of a small alphabet occur? What is in none is counted as other.

Codes are whatever stands for a category: small integers, booleans, hashes of strings. An alphabet is
sorted, and `learn` grows it until it is full; from then on what is new is other, so that memory is bounded.

Importing this compiles it, and imports numba.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.jit import kernel

Codes = NDArray[np.int64]
Counts = NDArray[np.uint32]


@kernel("int64(int64, int64, int64[:, ::1], int64)")
def _place(code: int, feature: int, alphabet: Codes, size: int) -> int:
    """Return where a code stands in the alphabet of a feature, or where it would."""
    # Alphabets are often numbers without a gap, and then this is the place.
    near = code - alphabet[0, feature] if size else 0
    if 0 <= near < size and alphabet[near, feature] == code:
        return near
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if alphabet[middle, feature] < code:
            low = middle + 1
        else:
            high = middle
    return low


@kernel("void(int64[:, ::1], int64[:, ::1], int64[::1], uint32[:, ::1])")
def count(codes: Codes, alphabet: Codes, sizes: Codes, counts: Counts) -> None:
    """Count the codes of F features, in place.

    Parameters
    ----------
    codes : (rows, F) int64
    alphabet : (S, F) int64
        Of each feature `sizes` codes, ascending; what follows them is not looked at.
    sizes : (F,) int64
    counts : (S + 1, F) uint32
        Of each code of the alphabet, and, last, of all others. Take them over within 2**32 rows.
    """
    other = alphabet.shape[0]
    for r in range(codes.shape[0]):
        for f in range(codes.shape[1]):
            place = _place(codes[r, f], f, alphabet, sizes[f])
            known = place < sizes[f] and alphabet[place, f] == codes[r, f]
            counts[place if known else other, f] += np.uint32(1)


@kernel("void(int64[:, ::1], int64[:, ::1], int64[::1], uint32[:, ::1])")
def learn(codes: Codes, alphabet: Codes, sizes: Codes, counts: Counts) -> None:
    """Count as `count` does, and take codes into the alphabet while there is room; counts move along."""
    room = alphabet.shape[0]
    for r in range(codes.shape[0]):
        for f in range(codes.shape[1]):
            code, size = codes[r, f], sizes[f]
            place = _place(code, f, alphabet, size)
            if place >= size or alphabet[place, f] != code:
                if size == room:
                    place = room
                else:
                    for at in range(size, place, -1):
                        alphabet[at, f] = alphabet[at - 1, f]
                        counts[at, f] = counts[at - 1, f]
                    alphabet[place, f], counts[place, f] = code, np.uint32(0)
                    sizes[f] += 1
            counts[place, f] += np.uint32(1)
