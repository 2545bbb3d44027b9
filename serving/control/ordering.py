"""How does an order to load or unload a model come to hold on every replica, and outlive them?

All are told, and answer when they have carried it out; if one cannot, the others take it back. Only then is
it written down: what is in the file was possible once. Who joins is told what is in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any

from router.change import Refused
from serving import orders
from serving.control.refusals import Lost, NoModel
from serving.control.roster import Replica, Roster
from serving.control.telling import Line, Said
from serving.orders import NO_SUCH_MODEL, Order, OrderMistake, Orders, with_order

log = logging.getLogger("turnout.ordering")

OVER_THE_WIRE = "the operator, by a replica"
REFUSALS: dict[type[Exception], str] = {NoModel: "unknown", Refused: "refused", Lost: "lost"}
"""How a replica is told why an order that it passed on cannot be carried out."""
BROKE = "broke"
"""How it is told that nobody foresaw what went wrong."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What came of an order: who carried it out, and who lives and has yet to say so."""

    model: str
    order: Order
    done: tuple[str, ...]
    missing: tuple[str, ...]
    ms: float

    def document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "model": self.model,
            "loaded": self.order.loaded,
            "configured": bool(self.order.config),
            "done": list(self.done),
            "missing": list(self.missing),
            "ms": self.ms,
        }


class Ordering:
    """The control's side of loading and unloading. On the control's event loop.

    Parameters
    ----------
    path : Path
        The file of the orders.

    Raises
    ------
    NotPrivate, OrderMistake
        If it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.orders: Orders = orders.read(path)
        self._changing = asyncio.Lock()
        self._roster: Roster | None = None
        self._silent_s = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Ordering: {len(self.orders)} models>"

    def start(self, roster: Roster, silent_s: float) -> None:
        """Give orders to these replicas; one that says nothing for so long is not waited for."""
        self._roster, self._silent_s = roster, silent_s

    def close(self) -> None:
        """Give no more."""
        for task in self._tasks:
            task.cancel()

    def greet(self, line: Line) -> None:
        """Tell a replica that has just connected what holds."""
        line.say("orders", orders=orders.documents(self.orders))

    def hear(self, replica: Replica, said: Said) -> None:
        """Take what a replica says that it did, or passes on."""
        match said:
            case {"say": "carried_out", "task": task, "fault": fault}:
                replica.tasks[task] = {"": fault}
            case {"say": "order", "number": number, "model": model, "order": order}:
                self._start(self._pass_on(replica.line, number, model, order))

    async def order(self, model: str, order: Order, by: str) -> Carried:
        """Have a model loaded or unloaded; whoever asked may go away meanwhile.

        Raises
        ------
        NoModel
            If the repository has no such model.
        Refused
            If it cannot be loaded, or nobody is there who could; nothing is changed.
        Lost
            If the order cannot be written down; nothing is changed.
        """
        return await asyncio.shield(self._start(self._order(model, order, by)))

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pass_on(self, line: Line, number: int, model: str, document: dict[str, Any]) -> None:
        """Carry out what a client ordered of a replica, and tell that what came of it."""
        kind = error = ""
        missing: tuple[str, ...] = ()
        try:
            order = orders.parsed(document)
            assert order is not None
            missing = (await self._order(model, order, OVER_THE_WIRE)).missing
        except tuple(REFUSALS) as refusal:
            kind, error = REFUSALS[type(refusal)], str(refusal)
        except Exception:  # Else the client would wait for its answer until it gives up.
            log.exception("event=order_broke model=%s", model)
            kind = BROKE
            error = f"{model}: an internal error of the control, which was logged; see the repository index"
        line.say("ordered", number=number, kind=kind, error=error, missing=missing)

    async def _order(self, model: str, order: Order, by: str) -> Carried:
        async with self._changing:
            began_ns, before = monotonic_ns(), self.orders.get(model)
            asked = self._there()
            faults = await self._tell(asked, model, order)
            if any(faults.values()):
                await self._tell([name for name in asked if not faults.get(name)], model, before)
                raise _refusal(model, faults)
            await self._write(asked, model, order)
            lives = {each["name"] for each in self._now.documents()}
            missing = tuple(sorted((set(asked) & lives) - faults.keys()))
            ms = (monotonic_ns() - began_ns) / 1e6
        verb = "load" if order.loaded else "unload"
        log.info("event=ordered verb=%s model=%s by=%r ms=%.1f missing=%r", verb, model, by, ms, missing)
        return Carried(model, order, tuple(sorted(faults)), missing, ms)

    @property
    def _now(self) -> Roster:
        assert self._roster is not None
        return self._roster

    def _there(self) -> list[str]:
        """Return who is to be waited for; one that starts is told in the end, and loads by it then."""
        there = self._now.replicas
        if not there:
            raise Refused("no replica is there that could load or unload a model; wait until one is ready")
        return [name for name, each in there.items() if each.answering] or list(there)

    async def _tell(self, names: Collection[str], model: str, order: Order | None) -> dict[str, str]:
        """Have an order carried out; return why it cannot be, empty if it was, by those that said so."""
        replicas, task = self._now.replicas, next(self._now.tasks)
        document = order.document() if order is not None else None
        for name in names:
            if name in replicas:
                replicas[name].line.say("carry_out", task=task, model=model, order=document)
        await self._now.answered(names, lambda each: task in each.tasks, self._silent_s)
        told = {name: replicas[name].tasks.pop(task, None) for name in names if name in replicas}
        return {name: fault[""] for name, fault in told.items() if fault is not None}

    async def _write(self, asked: Collection[str], model: str, order: Order) -> None:
        before = self.orders.get(model)
        after = with_order(self.orders, model, order)
        try:
            await asyncio.to_thread(orders.write, self._path, after)
        except (OSError, OrderMistake) as error:
            await self._tell(asked, model, before)
            raise Lost(f"the order cannot be written down, so nothing changed: {error}") from None
        self.orders = after
        for replica in self._now.replicas.values():
            self.greet(replica.line)


def _refusal(model: str, faults: dict[str, str]) -> Exception:
    told = {fault for fault in faults.values() if fault}
    if told == {NO_SUCH_MODEL}:
        return NoModel(f"{model}: {NO_SUCH_MODEL}")
    if len(told) == 1:
        return Refused(f"{model}: {told.pop()}")
    return Refused("; ".join(f"{model} in {name}: {fault}" for name, fault in faults.items() if fault))
