"""Who answers the signals and keeps the sockets while Ray comes and goes?

The launcher is the process that the user started: it listens, holds the sockets, and passes signals
on. Ray runs below a driver in a session of its own, because a signal to the whole process group
(`timeout`, a closed terminal) would end Ray's daemons before the replicas can drain.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from serving import access
from serving.config import Config, ConfigError
from serving.ending import end, session
from serving.interrupts import Signals, minded
from serving.rpc.engine import bind
from serving.sockets import Holder, bound_at, listen, private_folder
from serving.stand_in import StandIn

END_S_MAX = 30.0
"""What Ray may take to end beyond the time that requests in flight are given; then it is killed."""
PAUSES_S = 0.0, 1.0, 5.0
"""Before each attempt to start Ray anew since it was ready the last time; then it is given up."""
DRIVER = "from serving.deploy import drive; drive()"

Announce = Callable[[str, str, str, str], None]


def say_ready(http: str, grpc: str, metrics: str, admin: str) -> None:
    """Print where HTTP, gRPC, metrics and the admin application are to be found."""
    print(
        f"turnout: ready on Ray at http://{http}, gRPC at {grpc or 'no port'}, "
        f"metrics at http://{metrics}/metrics, admin at http://{admin}",
        flush=True,
    )


def run(config: Config, announce: Announce = say_ready) -> None:
    """Serve on Ray until SIGINT, SIGTERM or SIGHUP; SIGUSR2 replaces the replicas one by one.

    When Ray ends by itself after it was ready it is started anew, while connections wait in the sockets.

    Parameters
    ----------
    announce : callable, optional
        Told where HTTP, gRPC, metrics and admin are to be found, whenever every replica is ready.

    Raises
    ------
    ConfigError
        If the configuration cannot be had on this machine: a port in use, a GPU that is not there.
    RuntimeError
        If Ray or the replicas cannot start; or not anew, in several attempts.
    """
    from serving.control.desk import sole

    config = with_admin_port(_absolute(config))
    with _sockets(config) as sockets, sole(config), minded() as signals:
        pauses_s: list[float] = []
        anew = False
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                was_ready, error = _on_ray(config, sockets, announce, signals, anew=anew)
                if was_ready:
                    pauses_s = [*PAUSES_S]
                if not pauses_s:
                    raise error
                print(f"turnout: {error}; Ray is started anew", flush=True)
                time.sleep(pauses_s.pop(0))
                anew = True


def _on_ray(
    config: Config, sockets: Mapping[str, socket.socket], announce: Announce, signals: Signals, *, anew: bool
) -> tuple[bool, Exception]:
    """Serve on a Ray of our own until that ends by itself; return whether it was ready, and why it ended."""
    url, control, was_ready = f"http://{config.server.admin}", access.control_folder(config), False
    at = {name: bound_at(each) for name, each in sockets.items()}
    with (
        contextlib.ExitStack() as stack,
        _held(config, sockets) as holder,
        _standing_in(config, holder.path.parent, signals, wanted=anew) as stand_in,
        _driver(config, holder.path.parent, signals) as (driver, news),
    ):

        def deploy() -> None:
            if stand_in is not None:
                stand_in.let_go()
            assert driver.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                driver.stdin.write(b"\n")

        def ready() -> None:
            nonlocal was_ready
            access.announce(control, url, str(config.repository.path))
            stack.callback(access.withdraw, control, url)
            was_ready = True
            announce(at["http"], at.get("grpc", ""), at["metrics"], config.server.admin)
            if stand_in is not None:
                end(stand_in.process, config.server.drain_s_max + END_S_MAX)

        try:
            _hear(news, deploy, ready)
            error: Exception = RuntimeError(
                f"Ray's driver ended by itself, with code {driver.wait(END_S_MAX)}"
            )
        except (ConfigError, RuntimeError) as told:
            error = told
        except KeyboardInterrupt:
            holder.close()  # What nobody will answer is better refused now.
            for each in sockets.values():
                each.close()
            raise
    leaders = [driver, *([] if stand_in is None else [stand_in.process])]
    if left := [pid for leader in leaders for pid in session(leader.pid)]:
        raise RuntimeError(f"{error}, and its processes {left} do not end")
    return was_ready, error


def with_admin_port(config: Config) -> Config:
    """Return `config` with a free port for the admin application where it leaves the choice.

    Serve's proxy binds it itself, later, so a port that is in use is said here.
    """
    with listen(config.server.admin) as probe:
        server = config.server.model_copy(update={"admin": bound_at(probe)})
    return config.model_copy(update={"server": server})


def _hear(news: IO[str], deploy: Callable[[], None], ready: Callable[[], None]) -> None:
    """Do what the driver asks for, and pass on what else it says, until it ends."""
    for line in news:
        match json.loads(line):
            case {"event": "deploying"}:
                deploy()
            case {"event": "ready"}:
                ready()
            case {"event": "mistake", "text": text}:
                raise ConfigError(text)
            case {"event": "failed", "text": text}:
                raise RuntimeError(text)
            case {"event": event, **rest}:
                print(f"turnout: {event}", *rest.values(), flush=True)


@contextlib.contextmanager
def _sockets(config: Config) -> Iterator[dict[str, socket.socket]]:
    """Listen, before anything slow is begun."""
    with contextlib.ExitStack() as stack:
        sockets = {}
        for name, at in (("http", config.server.http), ("metrics", config.server.metrics)):
            sockets[name] = stack.enter_context(listen(at))
        rpc = bind(config)
        if rpc is not None:
            sockets["grpc"] = stack.enter_context(rpc)
        yield sockets


@contextlib.contextmanager
def _held(config: Config, sockets: Mapping[str, socket.socket]) -> Iterator[Holder]:
    """Hand out the sockets in a new folder, which is all that one Ray and its replicas know of."""
    folder = private_folder()
    try:
        (folder / "config.json").write_text(config.model_dump_json())
        handed_out = {name: each.dup() for name, each in sockets.items()}
        with contextlib.closing(Holder(folder, handed_out, "launcher")) as holder:
            yield holder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _standing_in(config: Config, folder: Path, signals: Signals, *, wanted: bool) -> Iterator[StandIn | None]:
    """Have somebody answer until the replicas do."""
    if not wanted or config.ray.address == "auto":  # There, the replicas live on without us.
        yield None
        return
    stand_in = None
    try:
        with signals.held():
            stand_in = StandIn(folder, {**os.environ, **replica_environment()})
        yield stand_in
    finally:
        with signals.held():
            if stand_in is not None:
                end(stand_in.process, config.server.drain_s_max + END_S_MAX)


@contextlib.contextmanager
def _driver(
    config: Config, folder: Path, signals: Signals
) -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """Start the driver; what it has to say comes as lines of JSON, and their end is its end."""
    settings = environment(config, folder)
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as news:
        command = [sys.executable, "-c", DRIVER, str(folder), str(writing)]
        try:
            with signals.held():
                signals.driver = subprocess.Popen(
                    command,
                    env=settings,
                    stdin=subprocess.PIPE,
                    bufsize=0,
                    pass_fds=[writing],
                    start_new_session=True,
                )
                os.close(writing)
            yield signals.driver, news
        finally:
            with signals.held():
                if signals.driver is not None:
                    end(signals.driver, config.server.drain_s_max + END_S_MAX)
                signals.driver = None


def _absolute(config: Config) -> Config:
    """Return `config` with paths that mean the same wherever Ray starts a process."""
    repository, server = config.repository, config.server
    paths = {"path": repository.path.absolute(), "state": repository.state.absolute()}
    tls = {"tls_certificate": server.tls_certificate, "tls_key": server.tls_key}
    tls_paths = {name: path and path.absolute() for name, path in tls.items()}
    sections = {
        "repository": repository.model_copy(update=paths),
        "server": server.model_copy(update=tls_paths),
    }
    return config.model_copy(update=sections)


def environment(config: Config, folder: Path) -> dict[str, str]:
    """Return the environment of the driver, which Ray's daemons and the replicas inherit from it.

    Raises
    ------
    ConfigError
        If this process's environment turns Ray's authentication off.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise ConfigError(f"RAY_AUTH_MODE={mode}: whoever reaches Ray may run code; only `token` is allowed")
    settings = {
        **os.environ,
        **replica_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's workers begin at 15, behind all else on the machine; loading could not yield to serving.
        "RAY_worker_niceness": "0",
        # Serve looks every 10 s, three times, whether the proxy before the admin application has died.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    }
    if config.ray.address == "auto":
        return settings
    # A token of this run, and no other: the one that Ray makes, ~/.ray/auth_token, all may read.
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    settings["RAY_AUTH_TOKEN_PATH"] = str(token)
    for name in ("RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        settings.pop(name, None)
    # Clusters of several machines are off: then all of Ray binds 127.0.0.1.
    settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    settings["RAY_enable_metrics_collection"] = "0"
    return settings


def replica_environment() -> dict[str, str]:
    """Return what a replica's process must find in its environment: this code, and patience in malloc."""
    from serving.cli import MALLOC_THRESHOLDS

    here = str(Path(__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    return {**MALLOC_THRESHOLDS, "PYTHONPATH": f"{here}{os.pathsep}{before}" if before else here}
