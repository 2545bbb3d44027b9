"""How is a file kept between runs so that nobody but its owner reads or plants it?"""

from __future__ import annotations

import os
import stat
from pathlib import Path

FILE_BYTES_MAX = 64 * 1024


class NotPrivate(Exception):
    """A file or folder that others could have read or written. The message is for its owner."""


def private(folder: Path) -> Path:
    """Make a folder that only this user may enter, or see to it that the one there is like that."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotPrivate(f"{folder} is no folder")
    _check_owner(folder, status)
    return folder


def read(path: Path) -> str:
    """Return what a small file holds; one that others own, may read or have linked is refused.

    Raises
    ------
    FileNotFoundError
        If there is none.
    NotPrivate
        If it is not to be trusted.
    """
    return read_bytes(path, FILE_BYTES_MAX).decode(errors="replace")


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Return the first `bytes_max` bytes that a file holds; refused as by `read`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotPrivate(f"{path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotPrivate(f"{path} is no file")
        _check_owner(path, status)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(bytes_max)
    finally:
        os.close(descriptor)


def create(path: Path, text: str) -> None:
    """Write a new file, whole or not at all; `FileExistsError` if there is one."""
    unfinished = _write(path, text)
    try:
        os.link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def replace(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all."""
    _write(path, content).replace(path)


def _write(path: Path, content: str | bytes) -> Path:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(unfinished, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor.
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    return unfinished


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise NotPrivate(f"{path} belongs to another user, so it is not trusted")
    if status.st_mode & 0o077:
        what, mode = ("enter", "700") if stat.S_ISDIR(status.st_mode) else ("read", "600")
        raise NotPrivate(f"others may {what} {path}, so it is not trusted; chmod {mode} it if it is yours")
