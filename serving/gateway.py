"""One request, start to finish: routed, fitted to a version, handed to its lane, and answered from there.

A listener decodes a request and calls `Gateway.infer`; the answer goes to the request's `reply`.
Nothing here waits, and nothing here knows a protocol.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic_ns

from router.table import NoRoute, pick
from serving.config import Config
from serving.errors import Unavailable, Unknown
from serving.shelf import Servable, Shelf
from serving.track import Watchdog
from serving.wire import InferRequest

log = logging.getLogger("turnout.gateway")

SWEEP_S = 0.02
"""How late, at most, a caller hears that its deadline passed while the model ran."""


class Gateway:
    """The engine: a shelf of versions and the way to them. A plain asyncio object; Ray is not needed.

    Must be made on the event loop that it serves on.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._loop = asyncio.get_running_loop()
        self.shelf = Shelf(config, self._loop)
        self._timeout_ns_max = int(config.queue.timeout_s_max * 1e9)
        self._watchdog = Watchdog(lambda: [servable.lane for servable in self.shelf.loaded.all()])
        self._tasks: list[asyncio.Task[None]] = []
        self.ready = False
        self.draining = False

    async def start(self) -> None:
        """Load the models and begin to look after them."""
        self._watchdog.start()
        await self.shelf.refresh(self.config.repository.models)
        self._tasks.append(self._loop.create_task(self._sweep()))
        if self.config.repository.poll_s:
            self._tasks.append(self._loop.create_task(self._poll(self.config.repository.poll_s)))
        self.ready = True

    async def close(self) -> None:
        """Finish what is under way."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await self.shelf.close()
        self._watchdog.stop()

    def infer(self, model: str, version: str, request: InferRequest, timeout_ns: int = 0) -> None:
        """Take a request; its `reply` is called later, from the event loop.

        Parameters
        ----------
        model, version : str
            As the client addressed them; an empty version is the route's choice.
        request : InferRequest
            With `arrived_ns` set. Its deadline is set here.
        timeout_ns : int
            What the transport asked for besides the request's own `timeout`; 0 is nothing.

        Raises
        ------
        Unknown, Invalid
            If nothing is served under that name, or the request does not fit it.
        """
        call = request.call
        try:
            servable = self.shelf.loaded.chosen[model][version]
        except KeyError:
            servable = self.find(model, version)  # Says what is there instead.
        layout = servable.layouts.get(call) or servable.layout(call)
        if layout.in_order:
            request.layout = layout
        else:
            layout.fit(request)
        allowed_ns = self._timeout_ns_max
        if timeout_ns or call.timeout_us:
            asked = (allowed_ns, timeout_ns, call.timeout_us * 1000)
            allowed_ns = min(limit for limit in asked if limit)
        request.expires_ns = request.arrived_ns + allowed_ns
        servable.lane.submit(request)

    def find(self, model: str, version: str = "") -> Servable:
        """Return the version that answers; `Unknown` says what is there instead."""
        loaded = self.shelf.loaded
        try:
            chosen = pick(loaded.table, model, version)
        except NoRoute as error:
            standing = self.shelf.index.get(model, {})
            broken = "" in standing and model not in loaded.servables
            if standing and (not version or version in standing or broken):
                raise Unavailable(
                    f"model {model!r} is known but not ready; see the repository index"
                ) from None
            raise Unknown(str(error)) from None
        return loaded.servables[model][chosen]

    async def _sweep(self) -> None:
        """Answer those whose deadline passed while their model ran in a thread."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_ns = monotonic_ns()
            for servable in self.shelf.loaded.all():
                servable.lane.expire_running(now_ns)

    async def _poll(self, period_s: float) -> None:
        """Look at the repository again and again."""
        while True:
            await asyncio.sleep(period_s)
            try:
                await self.shelf.refresh(self.config.repository.models)
            except (OSError, ValueError) as error:
                log.error("event=repository_unreadable reason=%r", str(error))
            except Exception:
                # Else the task would end here, in silence, and with it the looking.
                log.exception("event=refresh_broke")
