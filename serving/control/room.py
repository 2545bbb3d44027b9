"""What may a control have beside traffic? Rooms, each with something of its own to say to replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from router.entry import Entry
    from serving.control.control import Control
    from serving.control.roster import Replica
    from serving.control.telling import Line, Said


class Room(Protocol):
    """A part of the control. Everything here is called on the control's event loop, and returns at once."""

    def start(self, control: Control) -> None:
        """Begin, now that this control is the only writer."""

    async def close(self) -> None:
        """Write down what is to outlive this control, and end."""

    def greet(self, line: Line) -> None:
        """Tell a replica that has just connected, and has the table, what it has to know."""

    def hear(self, replica: Replica, said: Said) -> None:
        """Take what a replica says, if it is for this room."""

    def note(self, entry: Entry) -> None:
        """Take notice of a change that was journalled."""
