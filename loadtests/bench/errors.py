"""What keeps a figure from being measured?"""

from __future__ import annotations


class BenchError(Exception):
    """A figure could not be measured; the message says what was missing or went wrong."""
