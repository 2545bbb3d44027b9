"""Where are profiles and counts kept, so that a control that starts goes on where the last one was?

In a folder of the control's private one. A profile is a file named by its hash, and an index says which one
counts for which version; the counts of a stream are one file. Each is written whole or not at all.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from serving.drift.profile import InvalidProfile, Profile
from serving.drift.profile_json import from_json, to_json
from serving.drift.reading import Key
from serving.private import NotPrivate, private, read_bytes, replace

log = logging.getLogger("turnout.drift")

FOLDER = "drift"
INDEX = "profiles.json"
PROFILE_BYTES_MAX = 12 << 20
"""Of a profile as JSON: it has to fit a message to replicas."""
SNAPSHOT_BYTES_MAX = 1 << 30

Arrays = Mapping[str, NDArray[Any]]


class Store:
    """The files of drift.

    Parameters
    ----------
    folder : Path
        The control's private folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = private(folder / FOLDER)
        self._profiles = private(self.folder / "profiles")
        self._streams = private(self.folder / "streams")
        self.captures = private(self.folder / "captures")

    def profiles(self) -> dict[tuple[str, str], Profile]:
        """Return the profiles that count, by model and version; what cannot be read is left out and told."""
        try:
            index = json.loads(read_bytes(self.folder / INDEX, PROFILE_BYTES_MAX))
        except FileNotFoundError:
            return {}
        except (NotPrivate, ValueError, OSError) as error:
            log.error("event=profiles_not_read file=%s reason=%r", self.folder / INDEX, str(error))
            return {}
        found = {}
        for model, versions in index.items():
            for version, digest in versions.items():
                path = self._profiles / f"{digest}.json"
                try:
                    found[model, version] = from_json(json.loads(read_bytes(path, PROFILE_BYTES_MAX)))
                except (NotPrivate, ValueError, OSError) as error:
                    log.error("event=profile_not_read file=%s reason=%r", path, str(error))
        return found

    def keep(self, profiles: Mapping[tuple[str, str], Profile]) -> None:
        """Write down which profiles count from now on; those that count no more are removed.

        Raises
        ------
        InvalidProfile
            If one is too large.
        """
        index: dict[str, dict[str, str]] = {}
        for (model, version), profile in profiles.items():
            index.setdefault(model, {})[version] = profile.hash
            path = self._profiles / f"{profile.hash}.json"
            if not path.exists():
                replace(path, written(profile))
        replace(self.folder / INDEX, json.dumps(index))
        kept = {profile.hash for profile in profiles.values()}
        for path in self._profiles.iterdir():
            if path.stem not in kept:
                path.unlink(missing_ok=True)

    def snapshots(self) -> Iterator[tuple[Path, dict[str, NDArray[Any]]]]:
        """Return what was written of streams, and where; what cannot be read is left out and told."""
        for path in sorted(self._streams.glob("*.npz")):
            try:
                with np.load(io.BytesIO(read_bytes(path, SNAPSHOT_BYTES_MAX)), allow_pickle=False) as arrays:
                    yield path, dict(arrays)
            except (NotPrivate, ValueError, OSError, EOFError, BadZipFile) as error:
                log.error("event=drift_snapshot_not_read file=%s reason=%r", path, str(error))

    def write(self, key: Key, arrays: Arrays) -> None:
        """Write a stream's snapshot in the place of the one before."""
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]  # Its `allow_pickle` is a keyword beside them.
        replace(self._path(key), content.getvalue())

    def drop(self, key: Key) -> None:
        """Remove a stream's snapshot."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        return self._streams / f"{sha256(json.dumps(key).encode()).hexdigest()[:32]}.npz"


def written(profile: Profile) -> bytes:
    """Return a profile as its file has it; `InvalidProfile` if it is too large for its way to replicas."""
    content = json.dumps(to_json(profile)).encode()
    if len(content) > PROFILE_BYTES_MAX:
        raise InvalidProfile(
            f"the profile has {len(content)} bytes; at most {PROFILE_BYTES_MAX} are kept, "
            "which is some 16,000 features"
        )
    return content
