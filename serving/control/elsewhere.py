"""How is a control asked from an event loop that is not its own?"""

from __future__ import annotations

import asyncio
from typing import Any

from router.history import History
from router.intent import Intent
from serving.control.control import Control
from serving.control.ordering import Carried
from serving.control.receipt import Receipt
from serving.orders import Order


class Elsewhere:
    """A control on another loop, of which one sees what its own callers see.

    What it knows is read from here directly: entries are only ever added, and readings are replaced whole.
    """

    def __init__(self, control: Control, loop: asyncio.AbstractEventLoop) -> None:
        self._control = control
        self._loop = loop

    @property
    def history(self) -> History:
        """The entries so far."""
        return self._control.history

    async def submit(self, intent: Intent, by: str, why: str, **options: Any) -> Receipt:
        """Make a change, and return when it is known for whom it holds; see `Control.submit`."""
        work = self._control.submit(intent, by, why, **options)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def order(self, model: str, order: Order, by: str) -> Carried:
        """Have a model loaded or unloaded everywhere; see `Control.order`."""
        work = self._control.order(model, order, by)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def status(self, model: str = "") -> dict[str, Any]:
        """Return how traffic stands; see `Control.status`."""
        return asyncio.run_coroutine_threadsafe(self._status(model), self._loop).result(10)

    async def shadows(self, model: str) -> dict[str, Any]:
        """Return how a model's shadows compare; see `Control.shadows`."""
        work = self._control.shadows(model)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def replicas(self) -> list[dict[str, Any]]:
        """Return what is known of every replica that lives; see `Control.replicas`."""
        return self.status()["replicas"]  # type: ignore[no-any-return]

    async def _status(self, model: str) -> dict[str, Any]:
        return self._control.status(model)
