"""Which models and versions does a folder hold, and what speaks against each?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serving.regular import Refusal, check_regular

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NO_MODEL_NAME = (
    "the folder's name cannot be a model's: letters, digits, '.', '_' and '-', a letter or digit first, "
    "at most 128"
)
VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}")
ONNX_NAME = "model.onnx"
CONFIG_NAME = "config.pbtxt"
ENTRIES_MAX = 10_000
"""Models of a repository, and entries of a model's folder."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model as it lies in the repository: nothing of it is read yet.

    `versions` are those that may be tried, each with its folder; `faults` says of the others what is
    wrong with them. With a `reason` the model as a whole cannot be used.
    """

    name: str
    folder: Path
    versions: dict[int, Path] = field(default_factory=dict)
    config: Path | None = None
    faults: dict[int, str] = field(default_factory=dict)
    reason: str | None = None

    def __str__(self) -> str:
        return f"<{self.name}: {self.reason or f'versions {sorted(self.versions)}'}>"

    def has_any(self, versions: Iterable[str]) -> bool:
        """Say whether anything lies where one of these would."""
        return any(os.path.lexists(self.folder / version) for version in versions)


def scan(root: Path) -> dict[str, Candidate]:
    """Return the models in `root` by name, in the order of their names.

    Folders may be links as long as they resolve inside `root`; files may not.

    Raises
    ------
    OSError
        If the repository itself cannot be read.
    Refusal
        If it has too many entries.
    """
    whole = root.resolve()
    names = [entry.name for entry in _entries(whole) if entry.is_dir()]
    return {candidate.name: candidate for candidate in (_model(whole, name) for name in names)}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not entry.name.startswith(".")]
    if len(entries) > ENTRIES_MAX:
        raise Refusal(f"a folder with {len(entries)} entries; at most {ENTRIES_MAX} are read")
    return sorted(entries, key=lambda entry: entry.name)


def _model(root: Path, name: str) -> Candidate:
    folder = root / name
    # A name that is not UTF-8 must still be printable in the repository index.
    shown = os.fsencode(name).decode("utf-8", "replace")
    if not MODEL_NAME.fullmatch(name):
        return Candidate(shown, folder, reason=NO_MODEL_NAME)
    try:
        folder = _inside(root, folder)
        config = _config(folder)
        versions, faults = _versions(root, folder)
    except Refusal as refusal:
        return Candidate(shown, folder, reason=str(refusal))
    except OSError as error:
        return Candidate(shown, folder, reason=f"its folder cannot be read: {error.strerror}")
    return Candidate(name, folder, versions, config, faults, None if versions else _nothing(faults))


def _nothing(faults: dict[int, str]) -> str:
    """Say why a model has no version that could be tried; of several, the newest one's fault counts."""
    if faults:
        return faults[max(faults)]
    return f"no version: expected a folder named by a number with a {ONNX_NAME} in it, such as 1/{ONNX_NAME}"


def _inside(root: Path, path: Path) -> Path:
    """Return where `path` really is, if that is inside `root`."""
    real = path.resolve()
    if not real.is_relative_to(root) or real == root:
        raise Refusal(f"{path.name} leads out of the repository")
    return real


def _config(folder: Path) -> Path | None:
    path = folder / CONFIG_NAME
    if not os.path.lexists(path):
        return None
    check_regular(path, CONFIG_NAME)
    return path


def _versions(root: Path, folder: Path) -> tuple[dict[int, Path], dict[int, str]]:
    versions: dict[int, Path] = {}
    faults: dict[int, str] = {}
    for name in _version_names(folder):
        try:
            real = _inside(root, folder / name)
            check_regular(real / ONNX_NAME, f"{name}/{ONNX_NAME}")
        except Refusal as refusal:
            faults[int(name)] = str(refusal)
        else:
            versions[int(name)] = real
    return versions, faults


def _version_names(folder: Path) -> Iterator[str]:
    for entry in _entries(folder):
        if VERSION_NAME.fullmatch(entry.name) and entry.is_dir():
            yield entry.name
