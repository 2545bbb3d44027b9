"""What did a version take of its GPU while it was loaded, and was there room for it?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.device import NoDevice
from serving.gpu.driver import DriverError, driver
from serving.gpu.need import Need, Remembered, check_start
from serving.gpu.providers import Wanted
from serving.model import Artifact

_REMEMBERED = Remembered()


@contextmanager
def taking(asked: Wanted | None, artifact: Artifact) -> Iterator[dict[str, int]]:
    """Measure what a version takes that is loaded meanwhile; a version that would not fit is not begun.

    Yields what is filled in at the end: bytes by device, such as ``cuda:0``; nothing for a version on the
    CPU (None). It is by how much less of the GPU is free afterwards: what else changes there at the time,
    in this process or another, is measured as well.

    Raises
    ------
    NoRoom
        If the version would not fit.
    NoDevice
        If there is no such GPU.
    """
    memory: dict[str, int] = {}
    if asked is None:
        yield memory
        return
    key = artifact.digest, asked.gpu, asked.graphs
    try:
        side = driver(asked.gpu)  # Its context is everybody's, and made before anything is measured.
        check_start(side, Need(artifact.bytes_total, seen=_REMEMBERED.get(key)), asked.settings)
        before, _ = side.mem_info()
    except DriverError as error:
        raise NoDevice(f"GPU {asked.gpu} cannot be used: {error}") from None
    yield memory
    after, _ = side.mem_info()
    memory[f"cuda:{asked.gpu}"] = taken = max(before - after, 0)
    _REMEMBERED.note(key, taken)
