"""Who answers requests while Ray is started anew?

One process: a replica like any other, beside a control that answers no people. Before Ray's control begins
it lets go of its own, and then follows the new one as all replicas do, until those of Ray are ready.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.config import Config
    from serving.control.desk import Desk

log = logging.getLogger("turnout.stand_in")

START = "from serving.stand_in import stand_in; stand_in()"
LET_GO_S_MAX = 10.0
"""How long its control may take to end; then it is killed, since a journal has one writer."""


class StandIn:
    """The launcher's side of it. The process leads a session."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def let_go(self) -> None:
        """Have its control ended. When this returns there is none, whatever became of the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"\n")
        if not select.select([self.process.stdout], [], [], LET_GO_S_MAX)[0]:
            self.process.kill()
            self.process.wait()


def stand_in() -> None:
    """Be it. ``FOLDER`` is its argument; a line of input has it let go, SIGTERM ends it."""
    from serving.config import Config, ConfigError
    from serving.ending import outlive_nobody

    outlive_nobody()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    folder = Path(sys.argv[1])
    try:
        _serve(Config.model_validate_json((folder / "config.json").read_bytes()), folder)
    except (ConfigError, RuntimeError) as error:
        log.warning("event=no_stand_in reason=%r", str(error))
        sys.exit(1)


def _serve(config: Config, folder: Path) -> None:
    import uvloop

    from serving.control.desk import Desk, brakes_folder
    from serving.device import choose, gpus
    from serving.local import Post, Serving, serve
    from serving.model import Device
    from serving.peers import Peers
    from serving.sockets import fetch

    if choose(config.engine.device, gpus()) is Device.GPU:
        return  # Its memory is the replicas'.
    desk = Desk(config, folder)
    desk.start()
    threading.Thread(target=_let_go, args=[desk], name="turnout-let-go", daemon=True).start()
    name = f"stand-in-{os.getpid()}-{secrets.token_hex(4)}"
    # Who counts for drift takes as long to start as all else together.
    quick = config.model_copy(update={"drift": config.drift.model_copy(update={"enabled": False})})
    sockets = {each: fetch(folder, each) for each in ("http", "metrics")}
    if config.grpc.engine != "off":
        sockets["grpc"] = fetch(folder, "grpc")
    post = Post(folder, name, brakes_folder(config))
    uvloop.run(
        serve(
            Serving(
                quick, sockets["http"], sockets["metrics"], Peers(folder, name), post, sockets.get("grpc")
            )
        )
    )
    desk.close()


def _let_go(desk: Desk) -> None:
    sys.stdin.readline()
    desk.close()
    print(flush=True)
