"""Who calls, and what do they ask for beside their message? A call's metadata, read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving import pins
from serving.errors import Invalid, TurnoutError

Field = tuple[bytes, bytes]
"""A metadatum: its name in lower case, and its value."""

_SINGLE = frozenset((pins.VERSION, pins.ALIAS, pins.REQUEST_ID))
"""Metadata that mean nothing if they come twice."""


class Peer:
    """The `Origin` of a call. Equal metadata have equal peers, so a peer may be kept by its metadata.

    Attributes
    ----------
    headers : sequence of Field
        All metadata but HTTP/2's pseudo-headers.
    named : str
        The version, or the alias with an ``@``, that shall answer.
    request_id : bytes
        For requests without an id of their own.
    problem : TurnoutError or None
        Why inferences of this peer are refused. To be raised without its traceback.
    memory : list
        Two places for whoever routes.
    """

    __slots__ = ("headers", "memory", "named", "problem", "request_id")

    def __init__(self, headers: Sequence[Field]) -> None:
        self.headers = headers
        self.memory: list[Any] = [None, None]
        self.named, self.request_id = "", b""
        self.problem: TurnoutError | None = None
        try:
            single = _single(headers)
            if single:
                self.named, self.request_id = pins.named(single), pins.request_id(single)
        except Invalid as error:
            self.problem = error.with_traceback(None)


def _single(headers: Sequence[Field]) -> dict[bytes, bytes]:
    single: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SINGLE:
            if name in single:
                raise Invalid(f"more than one {name.decode()} header; send one")
            single[name] = value
    return single
