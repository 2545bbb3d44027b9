"""Where does what came of a load test lie?"""

from __future__ import annotations

import json
from pathlib import Path

from loadtests.slo.junit import junit
from loadtests.slo.page import page
from loadtests.slo.results import Judged


def write(judged: Judged, folder: Path) -> list[Path]:
    """Write results.json, junit.xml and report.html into `folder`; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(judged.document(), indent=1, allow_nan=False) + "\n"
    contents = {
        "results.json": document.encode(),
        "junit.xml": junit(judged),
        "report.html": page(judged).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]
