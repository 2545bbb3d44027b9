"""Where is the evidence of rollouts kept, so that a control that starts goes on where the last one was?

In a folder of the control's private one, a file for each model. Each is written whole or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from serving.private import NotPrivate, private, read_bytes, replace

log = logging.getLogger("turnout.rollout")

FOLDER = "rollouts"
BYTES_MAX = 256 << 20
"""Of a file that is read."""


class Store:
    """The files of rollouts.

    Parameters
    ----------
    folder : Path
        The control's private folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = private(folder / FOLDER)

    def read(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Return what was written and where; what cannot be read is left out and told."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                document = json.loads(read_bytes(path, BYTES_MAX))
            except (NotPrivate, ValueError, OSError) as error:
                log.error("event=evidence_not_read file=%s reason=%r", path, str(error))
                continue
            if isinstance(document, dict):
                yield path, document

    def write(self, model: str, document: Mapping[str, Any]) -> None:
        """Write the evidence of a model in the place of what there was."""
        replace(self._path(model), json.dumps(document))

    def drop(self, model: str) -> None:
        """Remove the evidence of a model."""
        self._path(model).unlink(missing_ok=True)

    def _path(self, model: str) -> Path:
        return self.folder / f"{sha256(model.encode()).hexdigest()[:32]}.json"
