"""How is a function compiled: explicit types, without the GIL, and never in front of a user."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

GENERATIONS_MAX = 8
"""Compiled generations of the kernels' source that are kept; the oldest goes first."""

log = logging.getLogger(__name__)


def kernel(*signatures: str) -> Callable[[F], F]:
    """Compile a function for exactly `signatures`, where it is decorated and never later.

    A call with other types is a `TypeError` in a test instead of a compilation stall in
    front of a user.
    """

    def compile_now(function: F) -> F:
        with _turn() as caching:
            compiled: Any = numba.njit(
                list(signatures),
                # A warm start loads machine code in milliseconds; a cold one compiles for most of a second.
                cache=caching,
                # The event loop goes on while a kernel runs in another thread.
                nogil=True,
                # 1/0 is inf as in NumPy: Python's check of each divisor costs the vectorisation of a loop.
                error_model="numpy",
                # No fast-math, because NaN and infinity are data here, and no parallel=True, because
                # numba's default threading layer aborts the process when two threads meet in it.
            )(function)
        return cast("F", compiled)

    return compile_now


@contextmanager
def _turn() -> Iterator[bool]:
    """Hold the cache for this process alone, and say whether there is one.

    Numba replaces the index of a cache before the code that it points to, so two processes that
    start together can load each other's halves, which is a crash. All loading and saving happens
    inside `kernel`, hence under this lock. A kernel's process that is killed between the two
    leaves nothing behind but work to do, because no two generations of source share a folder.
    """
    folder = _generation()
    if folder is None:
        yield False
        return
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        config: Any = numba.config
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            yield True
        finally:
            config.CACHE_DIR = before


@cache
def _generation() -> Path | None:
    """Return the private folder of this source's machine code, or None where none can be had."""
    try:
        root = _private(
            Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "turnout" / "kernels"
        )
        folder = _private(root / _digest())
        os.utime(folder)
        for old in sorted(root.iterdir(), key=_mtime_ns, reverse=True)[GENERATIONS_MAX:]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError) as error:  # RuntimeError is expanduser's, where there is no home.
        log.warning("kernels are compiled anew at each start: no cache: %s", error)
        return None
    return folder


def _private(path: Path) -> Path:
    """Create `path` for its owner alone: a cache entry is code, and whoever writes it runs as us."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path.name} can be written by others")
    return path


def _digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # Another process was faster in removing it.
        return 0
