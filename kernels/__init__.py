"""Numbers in, numbers out: NumPy and Numba only."""
