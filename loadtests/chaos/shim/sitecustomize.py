"""What if the clock jumps, or the disk is slow to sync? For every Python process of a gateway under test.

Python imports this by itself where it finds it on PYTHONPATH. While the file that ``TURNOUT_CHAOS_SHIM``
names says so (two doubles: seconds by which `time.time` is off, seconds that each sync takes longer), the
wall clock is off and `os.fsync` and `os.fdatasync` take longer. `datetime.now`, and what SQLite does itself
in C, are not reached. With zeros, or without the variable, everything is as it was.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

SETTINGS = struct.Struct("<dd")


def install(file: Path) -> None:
    """Replace the functions of this process."""
    with file.open("rb") as opened:
        held = mmap.mmap(opened.fileno(), SETTINGS.size, prot=mmap.PROT_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int(SETTINGS.unpack_from(held)[0] * 1e9)

    def slowly(sync: Callable[[int], None]) -> Callable[[int], None]:
        def synced(fd: int) -> None:
            time.sleep(SETTINGS.unpack_from(held)[1])
            sync(fd)

        return synced

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    os.fsync, os.fdatasync = slowly(os.fsync), slowly(os.fdatasync)


if "TURNOUT_CHAOS_SHIM" in os.environ:
    install(Path(os.environ["TURNOUT_CHAOS_SHIM"]))
