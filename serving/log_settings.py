"""What is logged, in the words of Triton's logging extension, and how is that changed while serving?

https://github.com/triton-inference-server/server, docs/protocol/extension_logging.md. The log goes to the
standard error stream, and where that goes is not for the wire to say: no file is.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import orjson

from serving import private
from serving.errors import Invalid, Unavailable
from serving.expect import JsonObject, boolean, invalid, shown, string, whole

log = logging.getLogger("turnout.log")

ROOT = "turnout"
FILE = "logging.json"
VERBOSE_MAX = (1 << 32) - 1
FORMATS = ("default", "ISO8601")
LOOK_S = 0.5
"""How late a process that has nothing else to look at follows."""
PLAIN = "%(asctime)s %(levelname)s %(name)s %(message)s"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Which events are logged, by their severity, and how their time is written."""

    log_file: str = ""
    log_info: bool = False
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"

    def admits(self, level: int) -> bool:
        """Say whether events of a level of `logging` are logged."""
        if level >= logging.ERROR:
            return self.log_error
        if level >= logging.WARNING:
            return self.log_warning
        return self.log_info if level >= logging.INFO else self.log_verbose_level > 0

    def changed(self, asked: JsonObject) -> LogSettings:
        """Return the settings with those in `asked`; one that is null gets its default again.

        Raises
        ------
        Invalid
            If there is no such setting, or it cannot have that value.
        """
        unset = LogSettings()
        for name in asked:
            if name not in _READERS:
                raise invalid(f"no such setting; known: {', '.join(_READERS)}", f"$.{shown(name)}")
        values: JsonObject = {
            name: getattr(unset, name) if value is None else _READERS[name](asked, name, "$")
            for name, value in asked.items()
        }
        return replace(self, **values)


def _no_file(asked: JsonObject, name: str, where: str) -> str:
    if asked[name] != "":
        raise invalid(
            "no file is named over the wire; the log goes to the standard error stream", f"{where}.{name}"
        )
    return ""


def _level(asked: JsonObject, name: str, where: str) -> int:
    value = whole(asked, name, where)
    if value > VERBOSE_MAX:
        raise invalid(f"expected at most {VERBOSE_MAX}, got {shown(value)}", f"{where}.{name}")
    return value


def _format(asked: JsonObject, name: str, where: str) -> str:
    value = string(asked, name, where)
    if value not in FORMATS:
        raise invalid(f"expected {' or '.join(map(repr, FORMATS))}, got {shown(value)}", f"{where}.{name}")
    return value


_READERS = {
    "log_file": _no_file,
    "log_info": boolean,
    "log_warning": boolean,
    "log_error": boolean,
    "log_verbose_level": _level,
    "log_format": _format,
}
assert set(_READERS) == {each.name for each in fields(LogSettings)}


class Logs:
    """The log of this process, and the settings that all replicas of a node share.

    Until they are changed for the first time, logging is whatever this program's start has made of it.

    Parameters
    ----------
    folder : Path, optional
        Which only this user can enter, and all replicas of the node share; without it there is this one.
    stream : file
        Where the log goes; None is the standard error stream.
    """

    def __init__(self, folder: Path | None = None, stream: TextIO | None = None) -> None:
        self.settings = LogSettings()
        self._path = None if folder is None else folder / FILE
        self._stream = stream
        self._handler: logging.StreamHandler[TextIO] | None = None
        self._seen = (0, 0)
        self._level = logging.NOTSET

    def look(self) -> LogSettings:
        """Follow what was changed through another replica, and return the settings."""
        if self._path is not None and (state := _state(self._path)) != self._seen:
            self._seen = state
            self._follow(_read(self._path))
        return self.settings

    def change(self, asked: JsonObject) -> LogSettings:
        """Change settings for all replicas, and return them all; raises as `LogSettings.changed`."""
        settings = self.look().changed(asked)
        if self._path is not None:
            try:
                private.replace(self._path, orjson.dumps(asdict(settings)))
            except OSError as error:
                log.error("event=log_settings_not_written reason=%r", str(error))
                raise Unavailable("the settings cannot be written down; the log says why") from None
            self._seen = _state(self._path)
        self._follow(settings)
        return settings

    def close(self) -> None:
        """Leave logging as it was found."""
        if self._handler is not None:
            root = logging.getLogger(ROOT)
            root.removeHandler(self._handler)
            root.setLevel(self._level)
            root.propagate = True
            self._handler = None

    def _follow(self, settings: LogSettings) -> None:
        self.settings = settings
        root = logging.getLogger(ROOT)
        if self._handler is None:
            self._handler = logging.StreamHandler(self._stream)
            self._handler.addFilter(lambda record: self.settings.admits(record.levelno))
            self._level = root.level
            root.addHandler(self._handler)
            root.propagate = False
        self._handler.setFormatter(
            _Stamped(PLAIN) if settings.log_format == "ISO8601" else logging.Formatter(PLAIN)
        )
        levels = (logging.DEBUG, logging.INFO, logging.WARNING)
        root.setLevel(next((level for level in levels if settings.admits(level)), logging.ERROR))


async def follow(logs: Logs) -> None:
    """Follow what is changed through others until this is cancelled."""
    while True:
        logs.look()
        await asyncio.sleep(LOOK_S)


class _Stamped(logging.Formatter):
    """Writes times as ISO 8601 has them."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's.
        return (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )


def _state(path: Path) -> tuple[int, int]:
    """Return what tells a file from the one that replaces it; zeros if there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def _read(path: Path) -> LogSettings:
    try:
        return LogSettings().changed(orjson.loads(private.read(path)))
    except (OSError, private.NotPrivate, ValueError, AttributeError, Invalid) as error:
        log.error("event=log_settings_unreadable reason=%r", str(error))
        return LogSettings()


def document(settings: LogSettings) -> dict[str, Any]:
    """Return the settings as the wire has them."""
    return asdict(settings)
