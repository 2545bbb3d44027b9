"""Is this really a file, and only this one? No link, pipe or device is ever opened in its place."""

from __future__ import annotations

import errno
import os
import stat

READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Refusal(ValueError):
    """Something in the repository that is not used; the message says why, without the machine's paths."""


def irregular(state: os.stat_result) -> str | None:
    """Say what speaks against a file with this `state`; None if it is a regular file with one name."""
    if stat.S_ISLNK(state.st_mode):
        return "is a symbolic link; put the file itself there"
    if stat.S_ISDIR(state.st_mode):
        return "is a folder, not a file"
    if not stat.S_ISREG(state.st_mode):
        return "is a pipe, socket or device, not a file"
    if state.st_nlink != 1:
        return f"has {state.st_nlink} hard links, so it can change under another name; put a copy there"
    return None


def check_regular(path: str | os.PathLike[str], shown: str, dir_fd: int | None = None) -> os.stat_result:
    """Return the state of a regular file without opening it.

    Raises
    ------
    Refusal
        If there is none, or it is something else. The message begins with `shown`.
    """
    try:
        state = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        raise Refusal(f"{shown}: {error.strerror}") from None
    if fault := irregular(state):
        raise Refusal(f"{shown} {fault}")
    return state


def open_regular(path: str | os.PathLike[str], shown: str, dir_fd: int | None = None) -> int:
    """Open a regular file for reading and return its descriptor; refuse anything else.

    It is looked at twice: before, because opening a pipe or a device has effects, and after, because
    it may have been replaced in between.

    Raises
    ------
    Refusal
        As `check_regular`.
    """
    check_regular(path, shown, dir_fd)
    try:
        fd = os.open(path, READ_ONLY, dir_fd=dir_fd)
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise Refusal(f"{shown} {'is a symbolic link' if link else error.strerror}") from None
    if fault := irregular(os.fstat(fd)):
        os.close(fd)
        raise Refusal(f"{shown} {fault}")
    return fd
