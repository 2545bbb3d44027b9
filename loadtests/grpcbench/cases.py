"""How many of ONNX's backend cases are answered through each protocol as ONNX Runtime answers them?

The tests themselves do the asking, all cases instead of a sample; here their report is read.
"""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Goal, Row, or_reason
from loadtests.bench.turnout import Bench, module

TESTS = "tests/e2e/test_backend_cases.py"
PROTOCOLS = {"binary": "HTTP binary", "JSON": "HTTP JSON", "gRPC": "gRPC"}
GOAL = Goal(1.0)
NAME = "backend cases"
TESTS_S_MAX = 1200


def cases(bench: Bench) -> Iterator[Row]:
    """Run every case; a share is of what ONNX Runtime passes and the protocol has words for."""
    if bench.wants(NAME):
        yield from or_reason(_cases(bench), NAME, "ratio", GOAL)


def _cases(bench: Bench) -> Iterator[Row]:
    report = (bench.folder / "backend-cases.xml").absolute()
    report.unlink(missing_ok=True)
    every = ["taskset", "-c", ",".join(map(str, sorted(bench.cores.every)))]
    options = ["-q", "-p", "no:cacheprovider", f"--timeout={TESTS_S_MAX}", f"--junit-xml={report}"]
    command = [*every, *module("pytest"), *options, TESTS]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=TESTS_S_MAX,
        env={**os.environ, "HYPOTHESIS_PROFILE": "thorough"},
    )
    if not report.exists():
        raise BenchError(f"the tests made no report: {done.stdout[-300:]}{done.stderr[-300:]}")
    yield from rows(properties(report))


def properties(report: Path) -> dict[str, int]:
    """Return what the tests counted."""
    tree = ET.parse(report)  # noqa: S314 - Our own tests wrote it.
    return {
        each.attrib["name"]: int(each.attrib["value"])
        for each in tree.iter("property")
        if each.attrib["value"].isdigit()
    }


def rows(counts: Mapping[str, int]) -> Iterator[Row]:
    """Turn counts of cases into shares."""
    for key, protocol in PROTOCOLS.items():
        name = f"{NAME}/{protocol}"
        if f"right: {key}" not in counts:
            yield Row(name, None, "ratio", GOAL, note="the tests did not come so far")
            continue
        right, refused = counts[f"right: {key}"], counts["refused at admission"]
        due = counts[f"asked: {key}"] + refused
        note = f"{right} of {due}; {refused} were refused at admission"
        if key == "JSON":
            note += (
                f"; {counts['asked: binary'] - counts['asked: JSON']} more hold what JSON has no words for"
            )
        yield Row(name, right / due if due else None, "ratio", GOAL, "ONNX Runtime", note=note)
