"""Where does the control work without Ray? On a thread and event loop of its own, admin application included.

Neither a person's requests nor the journal's waiting for the disk take anything from the loop that serves.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from serving import access, brake
from serving.access import JOURNAL
from serving.aside import be_prompt
from serving.config import Config, ConfigError
from serving.control.control import Control
from serving.control.ordering import Ordering
from serving.control.rooms import Rooms, open_rooms
from serving.journal.journal import Journal, JournalError
from serving.orders import ORDERS, OrderMistake
from serving.private import NotPrivate
from serving.sockets import bound_at

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("turnout.desk")
T = TypeVar("T")

LOCK = "gateway.lock"
START_S_MAX = 60.0
CONNECTIONS_MAX = 64
"""To the admin application; further ones get 503."""
IDLE_S_MAX = 5
END_S_MAX = 5.0


class Desk:
    """A control that runs beside the engine, in the same process.

    Parameters
    ----------
    folder : Path
        The deployment's private folder.
    admin : socket, optional
        Where the admin application is to answer; bound and listening. Without it nobody may `answer`.
    step : callable
        Told before each step of a change.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        admin: socket.socket | None = None,
        step: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self._config = config
        self._admin = admin
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="turnout-control", daemon=True)
        self.rooms = rooms_of(config)
        self.control = Control(
            config.traffic,
            folder,
            open_journal(config),
            step=step,
            ordering=open_ordering(config),
            rooms=self.rooms,
        )
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Let replicas in, and then answer people."""
        self._thread.start()
        self._loop.call_soon_threadsafe(be_prompt)
        self._do(self.control.start())

    def answer(self) -> None:
        """Answer people from now on. Imports what that takes, which is much, so it comes last."""
        self._do(self._answer())

    def close(self) -> None:
        """End both."""
        if not self._thread.is_alive():
            return
        with suppress(TimeoutError):
            self._do(self._close(), END_S_MAX)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S_MAX)

    async def _answer(self) -> None:
        import uvicorn

        from serving.admin.application import application

        assert self._admin is not None
        host, _ = bound_at(self._admin).rsplit(":", 1)
        folder = control_folder(self._config)
        app = application(
            self.control,
            access.token(folder),
            self.control.shadows,
            hosts=(host.strip("[]"),),
            stored=folder / JOURNAL,
            drift=self.rooms.drift,
            rollouts=self.rooms.rollouts,
            feedback=self.rooms.feedback,
            replaying=self.rooms.replaying,
        )
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=IDLE_S_MAX,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(settings)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([self._admin]))

    async def _close(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving}, timeout=END_S_MAX / 2)
        await self.control.close()

    def _do(self, work: Coroutine[Any, Any, T], s_max: float = START_S_MAX) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(s_max)


def control_folder(config: Config) -> Path:
    """Return the private folder of a gateway's traffic; `ConfigError` if it is not private."""
    try:
        return access.control_folder(config)
    except (NotPrivate, OSError) as error:
        raise ConfigError(f"repository.state: {error}") from None


def open_journal(config: Config) -> Journal:
    """Open the journal of a gateway.

    Raises
    ------
    ConfigError
        If it cannot be used; the message says why.
    """
    try:
        return Journal.open(control_folder(config) / JOURNAL)
    except JournalError as error:
        raise ConfigError(str(error)) from None


def rooms_of(config: Config) -> Rooms:
    """Return what the control has beside traffic; `ConfigError` if its files are not private."""
    try:
        return open_rooms(config, control_folder(config))
    except (NotPrivate, OSError) as error:
        raise ConfigError(f"repository.state: {error}") from None


def open_ordering(config: Config) -> Ordering:
    """Return what has models loaded and unloaded; `ConfigError` if its file cannot be used."""
    try:
        return Ordering(control_folder(config) / ORDERS)
    except (NotPrivate, OrderMistake, OSError) as error:
        raise ConfigError(f"repository.state: {error}") from None


def brakes_folder(config: Config) -> Path:
    """Return the folder in which a brake is pulled by making a file, having made it."""
    folder = control_folder(config) / brake.FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def sole(config: Config) -> Iterator[None]:
    """Be the only gateway that moves the traffic of this repository, until the block ends.

    Raises
    ------
    ConfigError
        If another one runs already.
    """
    lock = os.open(
        control_folder(config) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            raise ConfigError(
                f"another gateway (process {pid or 'unknown'}) serves this repository and moves its traffic; "
                "stop it, or give this one a repository.state of its own"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)
