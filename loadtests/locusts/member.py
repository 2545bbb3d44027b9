"""What is one process of a gateway that a load test starts?

    python -m loadtests.locusts.member control|replica FOLDER [NAME]

As tests/stage.py has it, with gRPC. A replica says by the file NAME.ready that it answers requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from serving.config import Config
from serving.sockets import fetch, listen


def control(config: Config, folder: Path) -> None:
    """Be the control until SIGTERM."""
    from serving.control.desk import Desk

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    desk = Desk(config, folder, fetch(folder, "admin"))
    desk.start()
    desk.answer()
    signal.sigwait({signal.SIGTERM})
    desk.close()


def replica(config: Config, folder: Path, name: str) -> None:
    """Be a replica until SIGTERM."""
    import uvloop

    from serving.control.desk import brakes_folder
    from serving.local import Post, Serving
    from serving.peers import Peers

    # Names of the peers' own have the process in them: one that was killed leaves its behind.
    serving = Serving(
        config,
        fetch(folder, "http"),
        listen("127.0.0.1:0"),
        Peers(folder, f"{name}-{os.getpid()}"),
        Post(folder, name, brakes_folder(config)),
        fetch(folder, "grpc"),
    )

    async def serve() -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        await serving.start()
        (folder / f"{name}.ready").touch()
        await over.wait()
        await serving.drain()

    uvloop.run(serve())


def main(kind: str, folder: Path, *name: str) -> None:
    """Be what was asked for, and end when whoever asked does."""
    from serving.ending import outlive_nobody

    outlive_nobody()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING)
    config = Config.model_validate_json((folder / "config.json").read_bytes())
    if kind == "control":
        control(config, folder)
    else:
        replica(config, folder, *name)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
