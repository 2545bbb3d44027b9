"""How is a small file replaced so that it is the old one or the new one, even if the machine falls over?"""

from __future__ import annotations

import os
from pathlib import Path

from serving.private import replace


def replace_durably(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all, and have its name on the disk, too, when this returns."""
    replace(path, content)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
