"""How does a replica carry out orders about models, and pass on those that its clients give?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

from serving.carry_out import carry_out, follow
from serving.control.telling import Line, Said
from serving.errors import Failed, Invalid, Overloaded, TurnoutError, Unavailable, Unknown
from serving.orders import Order, parsed
from serving.shelf import Shelf

log = logging.getLogger("turnout.orderly")

WAITING_MAX = 64
"""Orders of clients that are passed on at once."""
_ERRORS: dict[str, type[TurnoutError]] = {
    "unknown": Unknown, "refused": Invalid, "lost": Unavailable, "broke": Failed,
}  # fmt: skip


class Orderly:
    """A replica's side of loading and unloading. On the gateway's event loop.

    Parameters
    ----------
    begin : callable
        Runs a coroutine beside everything else.
    tell_state : callable
        Tells the control what is loaded.
    """

    def __init__(
        self, shelf: Shelf, begin: Callable[[Awaitable[None]], None], tell_state: Callable[[], None]
    ) -> None:
        self._shelf = shelf
        self._begin = begin
        self._tell_state = tell_state
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Said]] = {}

    async def pass_on(self, line: Line | None, model: str, order: Order) -> None:
        """Have the control carry an order out everywhere, and return when it is done.

        Raises
        ------
        Unknown, Invalid
            If there is no such model, or it cannot be loaded; nothing is changed.
        Unavailable, Overloaded
            If there is no control, or it has too much to do, or not all replicas are known to be done.
        """
        if line is None:
            raise Unavailable("the control is not there, and models are loaded and unloaded by it")
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded(f"{WAITING_MAX} orders are under way already; try again later")
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            line.say("order", number=number, model=model, order=order.document())
            said = await self._waiting[number]
        finally:
            del self._waiting[number]
        if said["kind"]:
            raise _ERRORS.get(said["kind"], Unavailable)(said["error"])
        if said["missing"]:
            raise Unavailable(
                f"it holds, but {', '.join(said['missing'])} did not say in time that it is done there; "
                "see the repository index"
            )

    def hear(self, line: Line, said: Said, *, beginning: bool) -> None:
        """Take what the control says of orders, `beginning` before anything is loaded."""
        match said:
            case {"say": "orders", "orders": documents}:
                orders = {model: order for model, each in documents.items() if (order := parsed(each))}
                if beginning:
                    self._shelf.orders = orders
                elif orders != self._shelf.orders:
                    self._begin(self._follow(orders))
            case {"say": "carry_out", "task": task, "model": model, "order": order}:
                self._begin(self._carry_out(line, task, model, parsed(order)))
            case {"say": "ordered", "number": number}:
                waiting = self._waiting.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(said)

    def lose(self) -> None:
        """Give up what the control did not answer before it was gone."""
        lost = {
            "kind": "lost",
            "error": "the control was lost meanwhile; the repository index says what holds",
            "missing": [],
        }
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(lost)

    async def _carry_out(self, line: Line, task: int, model: str, order: Order | None) -> None:
        try:
            fault = await carry_out(self._shelf, model, order)
        except Exception as error:  # The control waits for an answer, whatever it is.
            log.exception("event=not_carried_out model=%s", model)
            fault = str(error) or type(error).__name__
        self._tell_state()
        line.say("carried_out", task=task, fault=fault)

    async def _follow(self, orders: Mapping[str, Any]) -> None:
        try:
            await follow(self._shelf, orders)
        except Exception:  # What is loaded stays as it is, and each further word tries it again.
            log.exception("event=orders_not_followed")
        self._tell_state()
