"""How much that brings nothing is borne of a peer? The answer to floods, whatever they are made of.

Frames that cost their sender nothing and the receiver a little are what attacks on HTTP/2 are made of: pings,
settings, empty DATA, tiny window updates, priorities, and requests that are begun only to be broken off. They
are all lawful, and some of each is usual. So they are counted against what the peer earns by letting requests
finish, and a look, about once a second, forgives the rest.
"""

from __future__ import annotations

from serving.http2.bounds import Bounds
from serving.http2.errors import Code, ConnectionFault

EARNED_BY_ANSWER = 8
"""Idle frames that a finished request pays for: clients update two windows, and some ping, for each."""
WEARY = 16
"""So much that brings nothing is taken of a peer at a time: 16 PINGs take 18 us."""
RESET_COSTS = 4
"""As many frames as that is a request that is broken off: it takes up to 14 us."""
EARNED_BY_FRAME = 2
"""Idle frames that a message of ours pays for, or a longer DATA frame: its share of window updates."""


class Patience:
    """What a connection has left for its peer.

    Attributes
    ----------
    idle_frames, resets : int
        What the peer has used of each since the last look, less what it earned; never below zero.
    borne : int
        Of both together what was borne since whoever reads began anew.
    """

    __slots__ = ("_idle_frames_max", "_resets_max", "borne", "idle_frames", "resets")

    def __init__(self, bounds: Bounds) -> None:
        self._idle_frames_max = bounds.idle_frames_max
        self._resets_max = bounds.resets_max
        self.idle_frames = self.resets = self.borne = 0

    @property
    def weary(self) -> bool:
        """Whether so much was borne at a time that it is others' turn."""
        return self.borne >= WEARY

    def idle(self, what: str) -> None:
        """Count a frame that brought nothing.

        Raises
        ------
        ConnectionFault
            If there were too many.
        """
        self.idle_frames += 1
        self.borne += 1
        if self.idle_frames > self._idle_frames_max:
            raise ConnectionFault(
                Code.ENHANCE_YOUR_CALM,
                f"more than {self._idle_frames_max} frames that bring nothing, the last was {what}",
            )

    def reset(self, what: str) -> None:
        """Count a request that was broken off: by the peer, or for what the peer did.

        Raises
        ------
        ConnectionFault
            If there were too many.
        """
        self.resets += 1
        self.borne += RESET_COSTS
        if self.resets > self._resets_max:
            raise ConnectionFault(
                Code.ENHANCE_YOUR_CALM,
                f"more than {self._resets_max} requests were broken off, the last by {what}",
            )

    def earn_answer(self) -> None:
        """Count a request that was answered in full."""
        self.idle_frames = max(0, self.idle_frames - EARNED_BY_ANSWER)
        self.resets = max(0, self.resets - 1)

    def earn_frame(self) -> None:
        """Count a message of ours, or a longer DATA frame that the peer made room for."""
        self.idle_frames = max(0, self.idle_frames - EARNED_BY_FRAME)

    def renew(self) -> None:
        """Forgive all. Called about once a second."""
        self.idle_frames = self.resets = 0
