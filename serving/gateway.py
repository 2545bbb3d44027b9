"""One request, start to finish: routed, fitted to a version, handed to its lane, and answered from there.

A listener decodes a request and calls `Gateway.infer`; the answer goes to the request's `reply`.
Nothing here waits, and nothing here knows a protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic_ns
from typing import Protocol

from router.table import RoutingTable, known, newest_first
from serving.carry_out import carry_out
from serving.config import Config
from serving.drift.watch import Watch
from serving.errors import Failed, Invalid, TurnoutError, Unavailable, Unknown, Unsupported
from serving.evidence.evidence import Evidence
from serving.gpu.accelerator import Accelerate
from serving.gpu.placing import Placing
from serving.labels.recall import Recall
from serving.layout import Layout
from serving.log_settings import Logs
from serving.orders import NO_SUCH_MODEL, Order
from serving.replay.captures import Captures
from serving.seats import seats
from serving.servable import Servable
from serving.shadow.shadows import Shadows
from serving.shelf import Shelf
from serving.shm.memory import Memory
from serving.statistics import Totals
from serving.track import Tap, Watchdog
from serving.traffic import Servables, Traffic
from serving.ways import NOBODY, Arm, Origin, Way, asked_for
from serving.wire import Call, InferRequest

log = logging.getLogger("turnout.gateway")

Ask = Callable[[str, Order], Awaitable[None]]
"""Has a model loaded or unloaded wherever this gateway answers; raises `TurnoutError` if that cannot be."""


class Looks(Protocol):
    """Whoever looks at what versions answered."""

    def taps(self, model: str, version: str) -> list[Tap]:
        """Return what the lanes of a version are to show their batches to."""


SWEEP_S = 0.02
"""How late, at most, a caller hears that its deadline passed while the model ran, and a brake is noticed."""


class Gateway:
    """The engine: a shelf of versions and the way to them. A plain asyncio object; Ray is not needed.

    Must be made on the event loop that it serves on.

    Parameters
    ----------
    brakes : Path, optional
        The folder in which a brake is pulled by making a file.
    memory : Memory, optional
        Shared memory, if it is offered.
    accelerate : Accelerate, optional
        Puts versions on a device in the place of the real one.
    """

    def __init__(
        self,
        config: Config,
        brakes: Path | None = None,
        memory: Memory | None = None,
        accelerate: Accelerate | None = None,
    ) -> None:
        self.config = config
        self.memory = memory
        self.seats = seats()
        self._loop = asyncio.get_running_loop()
        self.watch = Watch(config.drift, self._follow_again)
        self.labels = Recall(config.labels)
        self.shadows = Shadows(config.shadow, self.watch, self.labels)
        self.evidence = Evidence(self._renew)
        self.captures = Captures(config.replay)
        self.traffic = Traffic(
            config.queue.requests_max, brakes, changed=self._follow, pages=self.evidence.page
        )
        self._rooms: list[Looks] = [self.shadows, self.watch, self.evidence, self.captures, self.labels]
        self._placing = Placing(accelerate)
        self.shelf = Shelf(config, self._loop, self.traffic.carry, self._placing)
        self._timeout_ns_max = int(config.queue.timeout_s_max * 1e9)
        self._watchdog = Watchdog(
            lambda: [lane for each in self.shelf.busy for lane in each.lanes], config.queue.timeout_s_max
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._rejoining: set[asyncio.Task[None]] = set()
        self.order: Ask = self._order_here
        self.totals = Totals()
        """What this node's replicas have counted; whoever knows them says how that is read."""
        self.logs = Logs()
        self.ready = False
        self.draining = False

    async def start(self) -> None:
        """Load the models and begin to look after them."""
        self._watchdog.start()
        self.watch.start()
        self.labels.start()
        self.traffic.look_at_brakes()
        self.logs.look()
        await self.shelf.refresh(self.shelf.wanted)
        self._tasks.append(self._loop.create_task(self._sweep()))
        if self.config.repository.poll_s:
            self._tasks.append(self._loop.create_task(self._poll(self.config.repository.poll_s)))
        await self.watch.ready()  # It got ready while the models were loaded.
        self.ready = True

    async def close(self) -> None:
        """Finish what is under way."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        for model in self.traffic.held:
            self.traffic.release(model)
        await self.shadows.close()
        await self.shelf.close()
        self._placing.close()
        await self.watch.close()
        await self.labels.close()
        self.captures.close()
        self._watchdog.stop()
        self.logs.close()
        if self.memory is not None:
            self.memory.close()

    def infer(
        self, model: str, version: str, request: InferRequest, timeout_ns: int = 0, origin: Origin = NOBODY
    ) -> None:
        """Take a request that has its `arrived_ns`, and set its deadline; its `reply` is called later.

        Parameters
        ----------
        model, version : str
            As the client addressed them; an empty version is the route's choice.
        timeout_ns, origin : int, Origin
            The transport's deadline, 0 for none; and who asks.

        Raises
        ------
        Unknown, Invalid, Unavailable
            There is no such version, the request does not fit it, or not here and now.
        """
        traffic, call = self.traffic, request.call
        way = traffic.ways.get(model)
        if way is None:
            raise self._nowhere(model, version)
        if request.arrived_ns > traffic.lease_ns:
            raise Unavailable("this replica lost the control of traffic, and with it the right to answer")
        named = version or origin.named or (call.parameters and asked_for(call.parameters))
        if named:
            arm = way.named.get(named) or self._unnamed(way, named)
        elif way.static is not None:
            arm = way.static
        elif origin.memory[0] is way:  # This caller was dealt before: 60 ns less than by a call.
            arm, request.slot = origin.memory[1]
            arm.tally.held += 1
        elif way.hold is not None:
            traffic.wait(way, partial(self._again, model, request, timeout_ns, origin))
            return
        else:
            arm = way.choose(request, origin)
        request.stamp, request.page = arm.stamp, arm.page
        try:
            servable = arm.servable or arm.lost(model)
            request.layout = layout = servable.layouts.get(call) or servable.layout(call)
            if not layout.in_order or call.shared:
                self._fit(request, layout)
        except TurnoutError as error:
            arm.fail(request, error)
            raise
        asked = timeout_ns or call.timeout_us
        allowed_ns = self._allowed_ns(timeout_ns, call) if asked else self._timeout_ns_max
        request.expires_ns = request.arrived_ns + allowed_ns
        (servable.lane if arm.lane is None else arm.lane).submit(request)

    def _fit(self, request: InferRequest, layout: Layout) -> None:
        """Bind a request that has tensors in shared memory, or in another order than the model."""
        if request.call.shared:
            if self.memory is None:
                raise Unsupported("shared memory is not offered; send the elements in the request")
            self.memory.lend(request)
        layout.fit(request)

    def _follow(self, table: RoutingTable, servables: Servables) -> None:
        """Show batches to whoever is to see them, as of this table."""
        self._part(servables)
        try:
            self.evidence.follow(servables)
            self.captures.follow(servables)
            self.shadows.follow(table, servables)
            self.watch.follow(servables)
            self.labels.follow(servables, self.traffic.epochs)
        finally:
            for model, versions in servables.items():
                for version, servable in versions.items():
                    servable.show([*chain(*[each.taps(model, version) for each in self._rooms])])

    def _part(self, servables: Servables) -> None:
        """Give each version that is to answer some requests apart a second lane, and no other one."""
        for model, versions in servables.items():
            baseline = self.traffic.ways[model].baseline
            for servable in versions.values():
                if baseline is not None and baseline.servable is servable:
                    baseline.lane = servable.part()
                elif servable.apart is not None:
                    task = self._loop.create_task(servable.rejoin())
                    self._rejoining.add(task)
                    task.add_done_callback(self._rejoining.discard)

    def _renew(self) -> None:
        self.traffic.renew()

    def _follow_again(self) -> None:
        self._follow(self.traffic.table, self.traffic.servables)

    def _allowed_ns(self, timeout_ns: int, call: Call) -> int:
        return min(filter(None, (self._timeout_ns_max, timeout_ns, call.timeout_us * 1000)))

    def find(self, model: str, version: str = "") -> Servable:
        """Return the version that describes the model; `Unknown` or `Unavailable` says why there is none."""
        way = self.traffic.ways.get(model)
        if way is None:
            raise self._nowhere(model, version)
        arm = way.usual if not version else way.named.get(version) or self._unnamed(way, version)
        return arm.servable or arm.lost(model)

    async def _order_here(self, model: str, order: Order) -> None:
        """Load or unload a model where there is no control that could have it done elsewhere too."""
        fault = await carry_out(self.shelf, model, order)
        if fault:
            raise (Unknown if fault == NO_SUCH_MODEL else Invalid)(f"{model}: {fault}")

    def _again(self, model: str, request: InferRequest, timeout_ns: int, origin: Origin) -> None:
        """Take a request anew that was held back."""
        if request.dropped:
            return
        try:
            self.infer(model, "", request, timeout_ns, origin)
        except TurnoutError as error:
            request.reply.fail(request, error)
        except Exception:  # The others that were held back are not to wait for ever.
            log.exception("event=held_request_broke model=%s", model)
            request.reply.fail(request, Failed("an internal error; it was logged"))

    def _nowhere(self, model: str, version: str) -> TurnoutError:
        """Return the error for a model of which nothing is loaded."""
        standing = self.shelf.index.get(model, {})
        if not self.shelf.orders.get(model, Order()).loaded:
            return Unavailable(f"model {model!r} is unloaded; it answers when it is loaded again")
        if standing and (not version or version in standing or "" in standing):
            return Unavailable(f"model {model!r} is known but not ready; see the repository index")
        if standing:
            return Unknown(f"model {model!r} has no version {version}; there are no versions")
        return Unknown(f"no model {model!r} is served; {known('models', sorted(self.traffic.ways))}")

    def _unnamed(self, way: Way, named: str) -> Arm:
        """Raise the error for a version or an alias that is not there."""
        if named.startswith("@"):
            aliases = sorted(each[1:] for each in way.named if each.startswith("@"))
            raise Unknown(f"model {way.model!r} has no alias {named[1:]!r}; {known('aliases', aliases)}")
        if named in self.shelf.index.get(way.model, {}):
            raise Unavailable(
                f"version {named} of model {way.model!r} is known but not ready; see the repository index"
            )
        versions = newest_first(each for each in way.named if not each.startswith("@"))
        raise Unknown(f"model {way.model!r} has no version {named}; {known('versions', versions)}")

    async def _sweep(self) -> None:
        """Answer those whose deadline passed while their model ran in a thread, and look at the files."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.traffic.look_at_brakes()
            self.logs.look()
            if self.memory is not None:
                self.memory.open_all()
            now_ns = monotonic_ns()
            for servable in self.shelf.busy:
                for lane in servable.lanes:
                    lane.expire_running(now_ns)
            self.evidence.sweep(now_ns)

    async def _poll(self, period_s: float) -> None:
        """Look at the repository again and again."""
        while True:
            await asyncio.sleep(period_s)
            try:
                await self.shelf.refresh(self.shelf.wanted)
            except (OSError, ValueError) as error:
                log.error("event=repository_unreadable reason=%r", str(error))
            except Exception:
                # Else the task would end here, in silence, and with it the looking.
                log.exception("event=refresh_broke")
