"""How are moments written for people, and read back?  (RFC 3339, always UTC)"""

from __future__ import annotations

from datetime import UTC, datetime


def utc(at_us: int) -> str:
    """Write microseconds of Unix time, such as ``2026-11-24T14:05:00.000000Z``."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_utc(text: str) -> int:
    """Read a moment as microseconds of Unix time; one without an offset is UTC.

    Raises
    ------
    ValueError
        If it is none; the message says what would be.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is no moment; 2026-11-24T14:05 or 2026-11-24 14:05:00Z are"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6)
