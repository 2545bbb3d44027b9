"""How is a model's brake pulled on this node, control or no control?

By a file under the model's name in a folder that the replicas look at: its content is the version that
shall answer, and if it is empty that is the stable one.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from serving.private import private, replace

FOLDER = "brake"


def pull(control_folder: Path, model: str, version: str = "") -> Path:
    """Let `version` of the model answer on this node, or its stable one, until `release`."""
    folder = private(control_folder / FOLDER)
    unfinished = control_folder / f".{FOLDER}.{model}"
    # Beside the folder and moved into it, so that the folder changes once, with the file whole in it.
    replace(unfinished, f"{version}\n" if version else "")
    unfinished.replace(folder / model)
    _touch(folder)
    return folder / model


def release(control_folder: Path, model: str) -> bool:
    """Let the routing table count again; return whether the brake was on."""
    folder = control_folder / FOLDER
    with suppress(FileNotFoundError):
        (folder / model).unlink()
        _touch(folder)
        return True
    return False


def _touch(folder: Path) -> None:
    """Give the folder a time that it never had; the kernel's own clock for that stands for milliseconds."""
    now_ns = time.time_ns()
    os.utime(folder, ns=(now_ns, now_ns))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
