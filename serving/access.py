"""Where is the admin application of a running gateway, and how does one prove that one may use it?

By a token in a file that only the user can read who runs the gateway. A gateway is found without its
configuration by an announcement in a folder of that user's.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from serving.private import NotPrivate, create, private, read, replace

if TYPE_CHECKING:
    from serving.config import Config

log = logging.getLogger("turnout.access")

TOKEN = "token"  # noqa: S105 - the name of a file.
TOKEN_BYTES = 32
JOURNAL = "journal.sqlite"
ADMIN = "admin"
"""Beside the token: the announcement of the gateway that runs, or ran last."""
ENV_TOKEN, ENV_ADMIN = "TURNOUT_TOKEN", "TURNOUT_ADMIN"


class NoAccess(Exception):
    """There is no way to an admin application, or not one way. The message is for the user."""


@dataclass(frozen=True, slots=True)
class Access:
    """A way to an admin application. `folder` is the gateway's private one, where it is known."""

    url: str
    token: str
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"<Access to {self.url}>"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a gateway that runs says of itself. `born` tells its process from a later one of that id."""

    url: str
    folder: Path
    repository: str
    pid: int
    born: str

    @property
    def lives(self) -> bool:
        """Whether the process that wrote it still runs."""
        return bool(self.born) and _born(self.pid) == self.born

    def __str__(self) -> str:
        return f"{self.url}  {self.repository or self.folder}  (process {self.pid})"


def place(config: Config) -> Path:
    """Return where the traffic of a configuration's gateway is kept: one folder for each repository."""
    repository = sha256(str(config.repository.path.resolve()).encode(errors="surrogateescape")).hexdigest()
    return config.repository.state.absolute() / "traffic" / repository[:16]


def control_folder(config: Config) -> Path:
    """Return `place`, made if it is absent and private to its owner; `NotPrivate` if it is not."""
    return private(place(config))


def token(folder: Path) -> str:
    """Return the token of a gateway's private folder, making it the first time.

    Raises
    ------
    NotPrivate
        If somebody else owns the file or may read it.
    NoAccess
        If there is no token in it.
    """
    from secrets import token_urlsafe

    path = folder / TOKEN
    for _ in range(2):
        with suppress(FileNotFoundError):
            return _check_token(str(path), read(path))
        with suppress(FileExistsError):
            create(path, token_urlsafe(TOKEN_BYTES))
    raise NoAccess(f"{path} comes and goes; does another program remove it?")


def _check_token(source: str, text: str) -> str:
    words = text.strip()
    if len(words) < TOKEN_BYTES or not words.isascii() or not words.isprintable() or " " in words:
        raise NoAccess(f"{source} holds no token; a gateway makes one when it starts and finds no such file")
    return words


def announce(folder: Path, url: str, repository: str = "") -> None:
    """Say that the gateway of this process, whose private folder this is, is asked at `url`.

    Where there is no home to say so in, the gateway serves all the same and is found by its configuration.
    """
    pid = os.getpid()
    document = {"url": url, "folder": str(folder), "repository": repository, "pid": pid, "born": _born(pid)}
    replace(folder / ADMIN, json.dumps(document))
    try:
        replace(private(running_folder()) / _name(url), json.dumps(document))
    except (OSError, NotPrivate, RuntimeError) as error:
        log.warning("event=not_announced reason=%r: it takes --config or --admin to find it", str(error))


def withdraw(folder: Path, url: str) -> None:
    """Take back what this process announced; what another announced meanwhile stays."""
    for path in (folder / ADMIN, running_folder() / _name(url)):
        with suppress(NoAccess, NotPrivate, FileNotFoundError):
            if _parse(path).pid == os.getpid():
                path.unlink(missing_ok=True)


def _name(url: str) -> str:
    return f"{urlsplit(url).port or 0}.json"


def running_folder() -> Path:
    """Return where the gateways of this user announce themselves."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # A relative path counts as none, says the XDG base directory specification.
    root = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return root / "turnout" / "running"


def running() -> list[Announcement]:
    """Return the gateways of this user that run, and remove what ended ones left behind."""
    folder = running_folder()
    return list(_living(private(folder))) if folder.is_dir() else []


def _living(folder: Path) -> Iterator[Announcement]:
    for path in sorted(folder.glob("*.json")):
        # What this release does not understand must not keep anybody from the rest.
        with suppress(FileNotFoundError, NoAccess):
            said = _parse(path)
            if said.lives:
                yield said
            else:
                path.unlink()


def find(admin_url: str | None = None, config: Config | None = None) -> Access:
    """Return the way to a gateway's admin application.

    That is the one at `admin_url`, else that of `config`, else the one that the environment names, else
    the only one that this user runs.

    Raises
    ------
    NoAccess
        If there is none, or several and none is named, or no token is known for it.
    NotPrivate
        If others could have written or read what leads to it.
    """
    if admin_url:
        return _at(admin_url)
    if config is not None:
        return _of(config)
    if os.environ.get(ENV_ADMIN):
        return _at(os.environ[ENV_ADMIN])
    only = the_only(running())
    return Access(only.url, _known_token(only.folder), only.folder)


def the_only(found: list[Announcement]) -> Announcement:
    """Return the gateway if there is one; `NoAccess` if there is none or they are several."""
    if not found:
        raise NoAccess(
            "no gateway of yours runs here; `turnout serve` starts one, and --admin URL names one elsewhere"
        )
    if len(found) > 1:
        lines = "\n".join(f"  {each}" for each in found)
        raise NoAccess(f"several gateways run; say which is meant with --admin URL or --config FILE\n{lines}")
    return found[0]


def _at(text: str) -> Access:
    url = _split(text)
    said = next((each for each in running() if _same(_split(each.url), url)), None)
    given = os.environ.get(ENV_TOKEN, "")
    if given:
        return Access(url.geturl(), _check_token(f"${ENV_TOKEN}", given), said.folder if said else None)
    if said is None:
        raise NoAccess(
            f"no token is known for {url.geturl()}, which no gateway of yours announced; "
            f"put it into {ENV_TOKEN}. It is in the file `{TOKEN}` of that gateway's private folder"
        )
    return Access(said.url, _known_token(said.folder), said.folder)


def _of(config: Config) -> Access:
    folder, nothing = place(config), f"no gateway runs for {config.repository.path}"
    try:
        said = _parse(folder / ADMIN)
    except FileNotFoundError:
        raise NoAccess(f"{nothing}; `turnout serve` with this configuration starts one") from None
    if not said.lives:
        raise NoAccess(f"{nothing}; the last one, process {said.pid}, has ended")
    return Access(said.url, _known_token(folder), folder)


def _split(text: str) -> SplitResult:
    """Read the URL of an admin application; ``127.0.0.1:8003`` is one, too."""
    try:
        url = urlsplit((text if "://" in text else f"http://{text}").rstrip("/"))
        whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        whole = False
    visible = text.isascii() and text.isprintable() and " " not in text
    if not (whole and visible) or "@" in url.netloc or url.query or url.fragment:
        raise NoAccess(f"{text[:80]!r} is no URL of an admin application; http://127.0.0.1:8003 is")
    return url


def _same(said: SplitResult, asked: SplitResult) -> bool:
    host = "127.0.0.1" if asked.hostname == "localhost" else asked.hostname
    return (said.scheme, said.hostname, said.port, said.path) == (asked.scheme, host, asked.port, asked.path)


def _known_token(folder: Path) -> str:
    """Return the token that a gateway made; whoever only asks makes none."""
    try:
        return _check_token(str(folder / TOKEN), read(folder / TOKEN))
    except FileNotFoundError:
        raise NoAccess(f"{folder / TOKEN} is gone; the gateway makes one when it starts") from None


def _parse(path: Path) -> Announcement:
    text = read(path)
    try:
        said = json.loads(text)
        url, folder, pid = _split(said["url"]).geturl(), Path(said["folder"]), int(said["pid"])
        return Announcement(url, folder, str(said["repository"]), pid, str(said["born"]))
    except (ValueError, KeyError, TypeError, AttributeError, NoAccess):
        raise NoAccess(f"{path} is not what a gateway wrote; remove it") from None


def _born(pid: int) -> str:
    """Return when a process began, in its system's words; empty if it does not run."""
    if Path("/proc/self/stat").exists():
        try:
            # After the name, which may hold anything, in brackets: field 22 of proc(5).
            return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "at some time"
