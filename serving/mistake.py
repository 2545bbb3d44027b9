"""What does a user of the command line hear who asked for what cannot be done?"""

from __future__ import annotations


class Mistake(Exception):
    """What was asked for cannot be done as it was asked; the message is for the person who did."""
