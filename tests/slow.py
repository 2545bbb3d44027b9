"""How many examples does a law get of which one takes tens of milliseconds? A third as many as others."""

from __future__ import annotations

from hypothesis import settings

slow = settings(max_examples=settings().max_examples // 3)
"""Of the profile that is in use: the thorough one tries more of these, too."""
