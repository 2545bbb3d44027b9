"""How does the gateway live on Ray Serve: how is it started, watched, replaced and ended?

The driver asks Serve for replicas (serving/launch.py starts it, and holds the listening sockets);
each replica runs the whole engine on an event loop of its own. Serve places them, notices when they
die and starts others; requests never pass through it. See docs/reference/deployment.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop

from serving import interrupts, wall
from serving.aside import be_prompt
from serving.config import Config, ConfigError, address
from serving.daemons import watched
from serving.ending import outlive_nobody
from serving.gave_up import failure
from serving.launch import replica_environment, run
from serving.placement import Resources, share
from serving.sockets import Holder, fetch

__all__ = ["Control", "Deployment", "Gateway", "drive", "run"]

APP, CONTROL_APP = "turnout", "turnout-control"
START_S_MAX = 900.0
"""Serve waits without end for resources and tries a broken replica three times; we wait this long."""
POLL_S = 0.05
"""Serve's own client looks once a second."""
HEALTH_S_MAX, CONTROL_HEALTH_S_MAX = 10.0, 1.0
"""A replica, or the control, that is silent for so long, three times in a row, is dead to Serve."""
MARGIN_S = 5.0
"""What a replica needs to end beyond the time that its requests in flight are given."""
OBJECT_STORE_BYTES = 80 << 20
"""Ray's minimum is 75 MiB: nothing of ours goes through its object store."""


class Gateway:
    """One replica: the engine in a thread of its own, on sockets that outlive it.

    Serve calls the constructor, `check_health` and `__del__`, and nothing else.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        from serving.control.desk import brakes_folder
        from serving.local import Post, Serving
        from serving.peers import Peers

        _shut_side_door()
        self._drain_s_max = config.server.drain_s_max
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="turnout", daemon=True)
        self._thread.start()
        names = ("http", "metrics") if config.grpc.engine == "off" else ("http", "metrics", "grpc")
        sockets = {name: fetch(folder, name) for name in names}
        handed_on = {name: each.dup() for name, each in sockets.items()}
        name = f"replica-{os.getpid()}-{secrets.token_hex(4)}"
        post = Post(folder, name, brakes_folder(config))
        self._serving = Serving(
            config, sockets["http"], sockets["metrics"], Peers(folder, name), post, sockets.get("grpc")
        )
        self._on_loop(self._serving.start(), START_S_MAX)
        self._holder = Holder(folder, handed_on, f"replica-{os.getpid()}")

    async def check_health(self) -> None:
        """Raise unless the engine's own event loop answers that it is ready."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine's event loop has ended")
        answer = asyncio.run_coroutine_threadsafe(self._is_ready(), self._loop)
        if not await asyncio.wait_for(asyncio.wrap_future(answer), HEALTH_S_MAX):
            raise RuntimeError("the engine is not ready")

    def __del__(self) -> None:
        """Drain: Serve calls this before it ends the process, and Python may call it again."""
        if not hasattr(self, "_holder"):
            return  # The constructor failed, and has said why.
        self._holder.close()
        del self._holder
        self._on_loop(self._serving.drain(), self._drain_s_max + MARGIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(MARGIN_S)

    async def _is_ready(self) -> bool:
        return self._serving.ready

    def _on_loop(self, work: Coroutine[Any, Any, None], s_max: float) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(s_max)


class Control:
    """The one writer of the gateway's traffic, and what people say to it: behind Serve's own proxy.

    Serve builds the application once the constructor is done, and replaces the whole when it dies; then
    the journal's next term is this one's, and whoever had the one before can write no more.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        _shut_side_door()
        self._config = config
        self._folder = folder
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="turnout-control", daemon=True)
        self._thread.start()
        self._control = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_S_MAX)

    async def _start(self) -> Any:
        from serving.control.control import Control as Writer
        from serving.control.desk import open_journal, open_ordering, rooms_of
        from serving.log_settings import Logs, follow

        self._logs = asyncio.get_running_loop().create_task(follow(Logs(self._folder)))
        be_prompt()  # Else the journal's turn comes late under load: p99 6.7 instead of 5.2 ms on two cores.
        config, journal = self._config, open_journal(self._config)
        self._rooms = rooms_of(config)
        control = Writer(
            config.traffic, self._folder, journal, ordering=open_ordering(config), rooms=self._rooms
        )
        await control.start()
        return control

    def __serve_build_asgi_app__(self) -> Any:
        """Return the admin application."""
        from serving.access import JOURNAL, control_folder, token
        from serving.admin.application import application
        from serving.control.elsewhere import Elsewhere

        host, _ = address(self._config.server.admin)
        folder = control_folder(self._config)
        control = Elsewhere(self._control, self._loop)
        return application(
            control,
            token(folder),
            control.shadows,
            hosts=(host,),
            stored=folder / JOURNAL,
            drift=self._rooms.drift,
            rollouts=self._rooms.rollouts,
            feedback=self._rooms.feedback,
            replaying=self._rooms.replaying,
        )

    async def check_health(self) -> None:
        """Raise unless the control's event loop answers."""
        answer = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop)
        await asyncio.wait_for(asyncio.wrap_future(answer), HEALTH_S_MAX)

    def __del__(self) -> None:
        """Hang up: Serve calls this before it ends the process, and Python may call it again."""
        if not hasattr(self, "_control"):
            return
        control = self._control
        del self._control
        self._loop.call_soon_threadsafe(self._logs.cancel)
        asyncio.run_coroutine_threadsafe(control.close(), self._loop).result(MARGIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(MARGIN_S)


def _shut_side_door() -> None:
    """Keep Serve from opening its gRPC port in this process; deployments call each other without it.

    It would listen on all interfaces and unpickle what it is sent without asking for the token
    (ray 2.60, ray/serve/_private/replica.py). That nothing but loopback listens is tested.
    """
    from ray.serve._private import replica

    assert hasattr(replica, "add_port_to_grpc_server"), "Ray has moved it: look where Serve listens now"
    replica.add_port_to_grpc_server = lambda _server, _address: 0


class Deployment:
    """The gateway as an application of Serve, from `start` to `end`."""

    def __init__(self, config: Config, folder: Path, resources: Resources) -> None:
        self._config = config
        self._folder = folder
        self._resources = resources
        self._controlled = False

    def start(self) -> None:
        """Deploy and return when every replica answers requests; deployed again, replace them all.

        Where there is room a new replica is ready before an old one drains; else connections wait
        in the kernel meanwhile.

        Raises
        ------
        ConfigError, RuntimeError, TimeoutError
            If a replica cannot start: because of the configuration, another reason, or for long.
        """
        from ray import serve

        targets = [serve.RunTarget(self._application(), name=APP, route_prefix=None)]
        if not self._controlled:
            targets.append(serve.RunTarget(self._control(), name=CONTROL_APP, route_prefix="/"))
            self._controlled = True
        # Serve replaces the replicas of what is deployed without a version, even if nothing differs.
        serve.run_many(targets, wait_for_applications_running=False)
        deadline_s = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline_s:
            there = serve.status().applications
            states = [there[name] for name in (CONTROL_APP, APP)]
            if all(each.status == "RUNNING" for each in states):
                return
            for each in states:
                if each.status == "DEPLOY_FAILED":
                    raise failure(" ".join(each.message for each in each.deployments.values()))
            time.sleep(POLL_S)
        raise TimeoutError(f"the replicas are not ready after {START_S_MAX:g} s; is the cluster busy?")

    def end(self) -> None:
        """Drain and stop all replicas."""
        from ray import serve

        deadline_s = time.monotonic() + self._config.server.drain_s_max + 2 * MARGIN_S
        for name in (APP, CONTROL_APP):  # As long as somebody answers, somebody can change who.
            serve.delete(name, _blocking=False)
            while name in serve.status().applications and time.monotonic() < deadline_s:
                time.sleep(POLL_S)

    def _control(self) -> Any:
        from ray import serve

        config = self._config
        deployment: Any = serve.deployment(
            serve.ingress()(Control),
            name="Control",
            num_replicas=1,
            ray_actor_options={"num_cpus": 0, **_placement(config)},
            health_check_period_s=config.ray.health_s,
            health_check_timeout_s=CONTROL_HEALTH_S_MAX,
            graceful_shutdown_wait_loop_s=POLL_S,
            graceful_shutdown_timeout_s=MARGIN_S,
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        return deployment.bind(config, self._folder)

    def _application(self) -> Any:
        from ray import serve

        config = self._config
        deployment: Any = serve.deployment(
            Gateway,
            name="Gateway",
            num_replicas=config.ray.replicas,
            max_surge_percent=self._resources.surge_percent,
            ray_actor_options={
                "num_cpus": self._resources.cpus,
                "num_gpus": self._resources.gpus,
                **_placement(config),
            },
            health_check_period_s=config.ray.health_s,
            health_check_timeout_s=HEALTH_S_MAX + MARGIN_S,
            # Serve waits so long, once, before it looks whether requests of its own are under way.
            graceful_shutdown_wait_loop_s=POLL_S,
            graceful_shutdown_timeout_s=config.server.drain_s_max + 2 * MARGIN_S,
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        return deployment.bind(config, self._folder)


def drive() -> None:
    """Be the driver that the launcher starts: ``FOLDER FD`` are its arguments, ended by SIGTERM."""
    outlive_nobody()
    folder = Path(sys.argv[1])
    config = Config.model_validate_json((folder / "config.json").read_bytes())
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8") as news:
        os.set_inheritable(news.fileno(), False)

        def say(event: str, text: str = "") -> None:
            print(json.dumps({"event": event, "text": text}), file=news, flush=True)

        try:
            _drive(config, folder, say)
        except ConfigError as error:
            say("mistake", str(error))
        except (RuntimeError, TimeoutError) as error:
            say("failed", str(error))
        except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into the latter while it starts.
            return
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # The launcher does it, unless it was killed.


def _drive(config: Config, folder: Path, say: Callable[[str, str], None]) -> None:
    again = threading.Event()
    signal.signal(signal.SIGUSR2, lambda _number, _frame: again.set())
    with _cluster(config, folder) as resources:
        signal.signal(signal.SIGTERM, interrupts.once)
        say("deploying", "")
        sys.stdin.readline()  # Now there is no other control.
        with watched(say), wall.watched(_renew), _deployed(config, folder, resources) as deployment:
            say("ready", "")
            while again.wait():
                again.clear()
                _replace(deployment, say)


def _renew() -> None:
    """Have Ray start Serve's controller anew: it looks after replicas by the clock on the wall (ray 2.60)."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    ray.kill(ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE), no_restart=False)


def _replace(deployment: Deployment, say: Callable[[str, str], None]) -> None:
    try:
        deployment.start()
    except (ConfigError, RuntimeError, TimeoutError) as error:
        say("replicas not replaced:", str(error))
    else:
        say("replicas replaced", "")


@contextlib.contextmanager
def _deployed(config: Config, folder: Path, resources: Resources) -> Iterator[Deployment]:
    deployment = Deployment(config, folder, resources)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.end()


@contextlib.contextmanager
def _cluster(config: Config, folder: Path) -> Iterator[Resources]:
    """Start or join Ray and its Serve; what was started is stopped again."""
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        _init(config, folder)
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        host, port = address(config.server.admin)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        if config.ray.address == "auto":
            for name in {APP, CONTROL_APP} & serve.status().applications.keys():
                serve.delete(name)  # Of a launcher that was killed.
        yield share(config, there.get("CPU", 0.0), there.get("GPU", 0.0))
    finally:
        ray.shutdown()


def _init(config: Config, folder: Path) -> None:
    import ray

    if config.ray.address == "auto":
        try:
            ray.init("auto", logging_level=logging.WARNING)
        except ConnectionError:
            raise ConfigError(
                'ray.address = "auto": no Ray cluster runs on this machine; '
                'start one with `ray start --head`, or say "local"'
            ) from None
        return
    needed = math.ceil(config.ray.cpus * (config.ray.replicas + 1))
    ray.init(
        "local",
        num_cpus=max(needed, os.cpu_count() or 1),  # They only count; nothing is pinned.
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.WARNING,
        _temp_dir=str(folder / "ray"),
    )
    at = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    assert at in {"127.0.0.1", "::1"}, f"Ray binds {at}, not loopback"


def _placement(config: Config) -> dict[str, Any]:
    """Return the options that keep replicas beside the launcher, whose sockets they use."""
    import ray

    if config.ray.address == "local":
        return {}  # One machine, and its processes inherit the launcher's environment.
    node = f"node:{ray.util.get_node_ip_address()}"  # type: ignore[no-untyped-call]
    return {"resources": {node: 0.001}, "runtime_env": {"env_vars": replica_environment()}}
