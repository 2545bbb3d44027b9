"""Why can the control not make a change, though it was asked for well?

What is refused because it makes no sense as things stand is `router.change.Refused`.
"""

from __future__ import annotations


class Stale(Exception):
    """The change was decided on a revision that is no longer in force. The message is for the caller."""


class Lost(Exception):
    """The journal cannot be written, or another control took over; nothing was changed."""


class NoModel(LookupError):
    """The repository has no model of that name. The message is for the caller."""
