"""How is a repository laid out, of the true models or of what stands in for them?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from loadtests.bench import models
from loadtests.gpubench.cases import Case
from loadtests.gpubench.standin import stand_in

CONFIG = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {rows_max}
version_policy {{ {policy} }}
"""
ALL, NEWEST = "all { }", "latest { num_versions: 1 }"
VERSIONS = (1, 2)


def lay_out(repository: Path, cases: Iterable[Case], *, simulated: bool) -> None:
    """Write each case, in two versions if it is to be switched, unless it is there already.

    Versions of true models have the same weights: what is measured is how they are switched.
    """
    for case in cases:
        two = case.switched or case.build is None
        files = {version: models.path(repository, case.name, version) for version in VERSIONS[: 1 + two]}
        if not all(file.exists() for file in files.values()):
            made = None if simulated or case.build is None else case.build()
            for version, file in files.items():
                each = stand_in(case, version) if made is None else made
                each.doc_string = f"version {version}"  # Else they would be one and the same file.
                models.save(each, file)
        text = CONFIG.format(name=case.name, rows_max=case.rows_max, policy=ALL if two else NEWEST)
        (repository / case.name / "config.pbtxt").write_text(text)
