"""Who owns a listening socket, so that it outlives the processes that accept on it?

A listening socket is one object in the kernel with one queue of connections, however many
processes hold a duplicate of it. A `Holder` keeps one and hands out duplicates over a Unix socket
(SCM_RIGHTS, unix(7)), so connections wait in the queue while a process is replaced, instead of
being refused. See docs/decisions/010-sockets-that-outlive-replicas.md.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from serving.config import ConfigError, address

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn, 4096 by default."""
_NAME_BYTES_MAX = 64
_VISIT_S_MAX = 1.0
"""How long one visitor can hold up the next; it only has to copy a few bytes."""
_FETCH_S_MAX = 10.0
_HERE_BYTES_MAX = 40
"""Ray puts sockets of names 60 bytes long below its folder, and sun_path ends at 107."""
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""
_FD = struct.Struct("i")


def listen(at: str, backlog: int = BACKLOG) -> socket.socket:
    """Bind and listen at an ADDRESS:PORT of the configuration.

    Raises
    ------
    ConfigError
        If the address cannot be had; the message says why.
    """
    host, port = address(at)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(backlog)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen at {at}: {_reason(error)}") from None
    bound.setblocking(False)
    return bound


def reserve(at: str) -> socket.socket:
    """Bind an ADDRESS:PORT at which other sockets of this user will listen, as SO_REUSEPORT lets them.

    Raises
    ------
    ConfigError
        If the address cannot be had; the message says why.
    """
    with listen(at, backlog=0) as alone:  # Binding to share would also succeed beside another gateway.
        family, place = alone.family, alone.getsockname()
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # What lingers of connections to an earlier gateway is no obstacle, and another gateway is one.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen at {at}: {_reason(error)}") from None
    return bound


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there; stop it, or choose another port"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; 127.0.0.1 is always there"
        case errno.EACCES:
            return "not permitted; ports from 1024 up need no privilege"
        case _:
            return (error.strerror or str(error)).lower()


def bound_at(bound: socket.socket) -> str:
    """Return where `bound` listens, as ADDRESS:PORT, with the port that was chosen for port 0."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def private_folder() -> Path:
    """Make a new folder that only this user can enter, with a path short enough for Unix sockets."""
    roomy = len(os.fsencode(tempfile.gettempdir())) <= _HERE_BYTES_MAX - len("/turnout-12345678")
    return Path(tempfile.mkdtemp(prefix="turnout-", dir=None if roomy else "/tmp"))  # noqa: S108 - 0700 below.


class Holder:
    """Keeps listening sockets open, and hands duplicates to processes of the same user.

    Several holders may share a folder: the launcher is one and every replica is another, so that
    the sockets are lost only when the last of them ends. Holder and sockets belong together:
    `close` closes both.
    """

    def __init__(self, folder: Path, sockets: Mapping[str, socket.socket], name: str) -> None:
        _check_private(folder)
        self._sockets = dict(sockets)
        self._uid = os.geteuid()
        self.path = folder / f"{name}.sock"
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._open_door()
        except OSError:
            self._door.close()
            raise
        self._thread = threading.Thread(target=self._hand_out, name="turnout-sockets", daemon=True)
        self._thread.start()

    def _open_door(self) -> None:
        # It gets its name when it already listens: a door that refuses is taken for a dead one.
        unfinished = self.path.with_suffix(".tmp")
        unfinished.unlink(missing_ok=True)
        self._door.bind(_reachable(unfinished))
        unfinished.chmod(0o600)
        self._door.listen(64)
        unfinished.rename(self.path)

    def __repr__(self) -> str:
        held = ", ".join(f"{name} {bound_at(each)}" for name, each in self._sockets.items())
        return f"<Holder {self.path.name}: {held}>"

    def close(self) -> None:
        """Hand out no more, and close the sockets; duplicates elsewhere stay open."""
        if self._door.fileno() < 0:
            return
        self.path.unlink(missing_ok=True)
        self._door.shutdown(socket.SHUT_RDWR)  # Wakes `accept`, which close alone does not.
        self._thread.join(_VISIT_S_MAX * 3)
        self._door.close()
        for each in self._sockets.values():
            each.close()

    def _hand_out(self) -> None:
        while True:
            try:
                visitor, _ = self._door.accept()
            except OSError:  # Closed: the only way out.
                return
            with visitor:
                try:
                    self._serve(visitor)
                except OSError:
                    continue  # The visitor went away or dawdled: its loss alone.

    def _serve(self, visitor: socket.socket) -> None:
        visitor.settimeout(_VISIT_S_MAX)
        raw = visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid != self._uid:
            visitor.sendall(b"-not for this user")
            return
        name = visitor.recv(_NAME_BYTES_MAX).decode("ascii", "replace")
        found = self._sockets.get(name)
        if found is None:
            visitor.sendall(f"-no socket {name!r}; held here: {', '.join(self._sockets)}".encode())
            return
        socket.send_fds(visitor, [b"+"], [found.fileno()])


def fetch(folder: Path, name: str) -> socket.socket:
    """Return a duplicate of the listening socket `name` from any holder in `folder`.

    Raises
    ------
    LookupError
        If no holder is alive there, or none has that socket.
    """
    _check_private(folder)
    complaints = []
    for path in sorted(folder.glob("*.sock")):
        try:
            return _fetch(path, name)
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # Its process died.
        except (OSError, LookupError) as error:
            complaints.append(f"{path.name}: {error}")
    raise LookupError(f"nobody hands out {name!r}: {'; '.join(complaints) or 'no holder is alive'}")


def _fetch(path: Path, name: str) -> socket.socket:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_FETCH_S_MAX)
        line.connect(_reachable(path))
        line.sendall(name.encode("ascii"))
        # Not socket.recv_fds: in Python 3.11 it drops the flag, and a child could inherit the socket.
        answer, rights, _, _ = line.recvmsg(256, socket.CMSG_LEN(_FD.size), socket.MSG_CMSG_CLOEXEC)
    if not rights:
        raise LookupError(answer[1:].decode("utf-8", "replace") or "closed without an answer")
    got = socket.socket(fileno=_FD.unpack(rights[0][2][: _FD.size])[0])
    got.setblocking(False)
    return got


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "expected a folder of this user alone (mode 0700)", str(folder))


def _reachable(path: Path) -> str:
    text = str(path)
    if len(os.fsencode(text)) > 107:
        raise OSError(errno.ENAMETOOLONG, "the path of a Unix socket ends at 107 bytes", text)
    return text
