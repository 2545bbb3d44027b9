"""Which secret is an event signed with, that its receiver and we alone know?

One that the configuration names has to be there: whoever mounts it must not get another one silently.
Where it names none there is one in the private folder, made the first time.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from secrets import token_urlsafe

from serving.alerts.settings import Alerts, Receiver
from serving.config import ConfigError
from serving.private import NotPrivate, create, read

FILE = "secret"
LENGTH_MIN = 32


def secret_of(receiver: Receiver, settings: Alerts, folder: Path) -> str:
    """Return the secret of a receiver.

    Raises
    ------
    ConfigError
        If there is none that is to be trusted.
    """
    if receiver.secret_file is not None:
        return _read(f"alerts.receivers {receiver.name}: secret_file", receiver.secret_file)
    if settings.secret_file is not None:
        return _read("alerts.secret_file", settings.secret_file)
    with suppress(FileExistsError):
        if not (folder / FILE).exists():
            create(folder / FILE, token_urlsafe(LENGTH_MIN) + "\n")
    return _read("repository.state", folder / FILE)


def _read(setting: str, path: Path) -> str:
    try:
        secret = read(path.expanduser()).strip()
    except FileNotFoundError:
        raise ConfigError(
            f"{setting} = {str(path)!r}: there is no such file; make it, with a secret of "
            f"{LENGTH_MIN} characters or more, and chmod 600 it"
        ) from None
    except (NotPrivate, OSError) as error:
        raise ConfigError(f"{setting}: {error}") from None
    if len(secret) < LENGTH_MIN or not secret.isascii() or not secret.isprintable():
        raise ConfigError(
            f"{setting} = {str(path)!r}: expected a line of {LENGTH_MIN} or more visible ASCII characters"
        )
    return secret
