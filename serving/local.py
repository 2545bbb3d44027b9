"""The gateway with its listeners in one event loop: a process of its own, or a thread of a Ray replica."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import signal
import socket
import ssl
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from serving import access, listen_metrics
from serving.config import Config, ConfigError
from serving.control.link import Link
from serving.evidence.reading import readings
from serving.gateway import Gateway
from serving.gpu.accelerator import Accelerate
from serving.gpu.nvml import Meter, meter
from serving.gpu.shared import handles
from serving.listen_http import Listener
from serving.log_settings import Logs
from serving.metrics import Reading, ServerReading, VersionReading, registry
from serving.peers import Peers
from serving.rpc.engine import Engine, bind, engine
from serving.share import ShareReading
from serving.shm.memory import Memory
from serving.sockets import bound_at, listen, private_folder

log = logging.getLogger("turnout")

SWITCH_INTERVAL_S = 0.001
"""How long a thread may keep the interpreter: a model's thread that is done should not wait 5 ms for it."""

GARBAGE_THRESHOLDS = (10_000, 20, 50)


Announce = Callable[[str, str, str, str], None]
"""Told where HTTP, gRPC (empty if it is off), metrics and the admin application are to be found."""


@dataclass(frozen=True, slots=True)
class Post:
    """Where a replica finds its control, and what it is called there.

    `folder` is the deployment's private one; in `brakes` a brake is pulled by making a file.
    """

    folder: Path
    name: str
    brakes: Path


class Serving:
    """A gateway, its HTTP and gRPC listeners and its metrics, on sockets that are bound already.

    Parameters
    ----------
    grpc : socket, optional
        What `engine.bind` returned.
    peers : Peers, optional
        The other replicas behind the same sockets, whose counts the metrics then include.
    post : Post, optional
        Where the control is. Without one there is none, and the highest version of each model answers.
    accelerate : Accelerate, optional
        Puts versions on a device in the place of the real one.
    """

    def __init__(
        self,
        config: Config,
        http: socket.socket,
        metrics: socket.socket,
        peers: Peers | None = None,
        post: Post | None = None,
        grpc: socket.socket | None = None,
        accelerate: Accelerate | None = None,
    ) -> None:
        self._config = config
        self._accelerate = accelerate
        self._http = http
        self._metrics_socket = metrics
        self._grpc = grpc
        self._peers = peers
        self._post = post
        self._link: Link | None = None
        self._metrics: listen_metrics.Server | None = None
        self._gateway: Gateway | None = None
        self._listener: Listener | None = None
        self._rpc: Engine | None = None
        self._meter: Meter | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are accepted, every live version is servable, and the process is not worn out.

        One that is worn goes on answering until whoever started it replaces it.
        """
        gateway = self._gateway
        return (
            self._listener is not None
            and gateway is not None
            and gateway.ready
            and not gateway.shelf.kept.worn
        )

    async def start(self, opening: Callable[[], None] = lambda: None) -> None:
        """Get the table, load and warm the models, then accept requests. On the loop that is to serve.

        Parameters
        ----------
        opening : callable
            Called just before requests are accepted.

        Raises
        ------
        ConfigError
            If the certificate or the repository cannot be used.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        tls = tls_context(self._config)
        post = self._post
        brakes = post.brakes if post is not None else None
        self._gateway = Gateway(self._config, brakes, shared_memory(self._config, post), self._accelerate)
        self._gateway.watch.start()  # First, because it takes longest until there is somebody who counts.
        self._meter = meter(self._config)
        total = self.read
        if self._peers is not None:
            self._peers.open(self.read)
            total = self._peers.total
        self._gateway.totals.read = total
        self._metrics = listen_metrics.serve(self._metrics_socket, registry(total))
        if post is not None:
            self._gateway.logs = Logs(post.folder)
            self._link = Link(self._gateway, post.folder, post.name, self._config.traffic)
            self._gateway.order = self._link.order
            await self._link.start()
        await self._gateway.start()
        if self._link is not None:
            await self._link.settle()
        if self._grpc is not None:
            self._rpc = engine(self._gateway)  # Its modules stay as well.
        opening()
        settle_garbage()
        self._listener = Listener(self._gateway)
        await self._listener.start(self._http, tls)
        if self._grpc is not None and self._rpc is not None:
            await self._rpc.start(self._grpc)

    async def drain(self) -> None:
        """Accept no more, answer what is under way within `server.drain_s_max`, and end."""
        if self._gateway is not None:
            self._gateway.draining = True
        s_max = self._config.server.drain_s_max
        await asyncio.gather(*[each.drain(s_max) for each in (self._listener, self._rpc) if each is not None])
        if self._gateway is not None:  # Now that hardly anything more will be counted.
            await self._gateway.watch.close()
            await self._gateway.labels.close()
        if self._link is not None:  # It went on acknowledging changes while there was something to answer.
            await self._link.close()
        if self._gateway is not None:
            await self._gateway.close()
        if self._metrics is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._metrics.close)
        if self._peers is not None:  # Now that nothing more will be counted.
            await asyncio.get_running_loop().run_in_executor(None, self._peers.leave)

    def read(self) -> Reading:
        """Return what there is to say of this process alone. Any thread may call it."""
        server = ServerReading()
        if (listener := self._listener) is not None:
            server = ServerReading(listener.connections, listener.bodies.bytes_now, dict(listener.rejections))
        if (rpc := self._rpc) is not None:
            server += ServerReading(
                rpc_connections=rpc.connections,
                rpc_bodies_bytes=rpc.bytes_now,
                rpc_rejections=rpc.rejections,
                rpc_faults=dict(rpc.faults),
            )
        if self._gateway is None or not self._config.metrics.enabled:
            return Reading({}, server)
        server += ServerReading(kept_bytes=self._gateway.shelf.kept.bytes)
        shares = self._gateway.traffic.shares()
        versions = {
            (model, version): VersionReading(
                servable.ledger.snapshot(),
                servable.pending,
                servable.queued,
                servable.memory,
                servable.load_s,
                shares.get((model, version), ShareReading()),
            )
            for model, loaded in self._gateway.shelf.loaded.servables.items()
            for version, servable in loaded.items()
        }
        drift = self._gateway.watch.reading(self._link.drift.verdicts if self._link is not None else {})
        losses = self._link.labels.losses if self._link is not None else {}
        labels = self._gateway.labels.reading(losses)
        evidence = readings(self._gateway.evidence.book.everything())
        gpus = self._meter.read() if self._meter is not None else {}
        return Reading(versions, server, self._gateway.shadows.readings(), drift, evidence, labels, gpus)


def shared_memory(config: Config, post: Post | None) -> Memory | None:
    """Return the shared memory that the node's replicas offer, None if there is to be none."""
    cuda = handles(config)
    if not config.shared_memory.enabled and cuda is None:
        return None
    if post is not None:
        return Memory(config.shared_memory, config.limits, post.folder, cuda)
    folder = private_folder()
    memory = Memory(config.shared_memory, config.limits, folder, cuda)
    weakref.finalize(memory, shutil.rmtree, folder, ignore_errors=True)
    return memory


def settle_garbage() -> None:
    """Spare the collector what stays: modules and models are not looked at again, requests rarely.

    Requests are freed by their reference counts; what is left for the collector are exceptions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Return the context of the configured certificate, or None without one."""
    server = config.server
    if server.tls_certificate is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(server.tls_certificate, server.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"server.tls_certificate, server.tls_key: {error}") from None
    return context


def run(config: Config, announce: Announce | None = None) -> None:
    """Serve in this process until SIGINT or SIGTERM, with a control of its own.

    Parameters
    ----------
    announce : callable, optional
        Told once where to find what, when requests are accepted.
    """
    from serving.control.desk import Desk, brakes_folder, sole

    with ExitStack() as stack:
        sockets = [
            stack.enter_context(listen(at))
            for at in (config.server.http, config.server.metrics, config.server.admin)
        ]
        rpc = bind(config)
        if rpc is not None:
            stack.enter_context(rpc)
        stack.enter_context(sole(config))
        folder = private_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        desk = Desk(config, folder, sockets[2])
        stack.callback(desk.close)
        desk.start()
        post = Post(folder, "local", brakes_folder(config))
        serving = Serving(config, sockets[0], sockets[1], post=post, grpc=rpc)

        def opening() -> None:
            # Whoever sees readiness finds the control; its socket lets them wait until it answers.
            url = f"http://{bound_at(sockets[2])}"
            control = access.control_folder(config)
            access.announce(control, url, str(config.repository.path))
            stack.callback(access.withdraw, control, url)

        def ready() -> None:
            desk.answer()
            if announce is not None:
                http, metrics, admin = map(bound_at, sockets)
                announce(http, "" if rpc is None else bound_at(rpc), metrics, admin)

        uvloop.run(serve(serving, opening, ready))


async def serve(
    serving: Serving, opening: Callable[[], None] = lambda: None, ready: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGINT or SIGTERM."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    starting = loop.create_task(serving.start(opening))
    ending = loop.create_task(over.wait())
    await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        # In a thread, so that it may ask the gateway something.
        await loop.run_in_executor(None, ready)
        await ending
        await serving.drain()
