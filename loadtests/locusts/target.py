"""Whom do users ask, with what, and who keeps the book?"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from loadtests.locusts.asking import MODEL, Rows
from loadtests.locusts.book import Book


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway as its users see it: ADDRESS:PORT of HTTP and of gRPC, "" if it speaks none."""

    http: str
    grpc: str
    rows: Rows
    book: Book
    model: str = MODEL
    askers: count[int] = field(default_factory=count)
    """Numbers for users; none is given twice."""
