"""How does whoever gets an event know that it comes from here, and is not an old one sent again?

By an HMAC-SHA256 (RFC 2104) over the time of sending, a full stop and the body, with a secret that both have.
"""

from __future__ import annotations

import hmac

HEADER = "turnout-signature"
WINDOW_S = 300.0
"""How old a signature may be, and how far ahead a sender's clock."""


def sign(secret: str, body: bytes, now_s: float) -> str:
    """Return the header's value: ``t=1795615500,v1=HEX``."""
    return f"t={int(now_s)},v1={_digest(secret, str(int(now_s)), body)}"


def verify(secret: str, header: str, body: bytes, now_s: float, window_s: float = WINDOW_S) -> bool:
    """Say whether `body` was signed with `secret`, not long ago. `header` may be anything."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    moment, given = parts.get("t", ""), parts.get("v1", "")
    if not (moment.isascii() and moment.isdigit() and len(moment) < 16) or not given.isascii():
        return False
    fresh = abs(now_s - int(moment)) <= window_s
    return hmac.compare_digest(_digest(secret, moment, body), given) and fresh


def _digest(secret: str, moment: str, body: bytes) -> str:
    return hmac.new(secret.encode(), moment.encode() + b"." + body, "sha256").hexdigest()
