"""How is what was measured told: on a terminal, in Markdown, in JSON?"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests import columns
from loadtests.hostile.promises import Finding, judged
from loadtests.hostile.trial import Round, Trial

COLUMNS = (
    "attack", "without", "with", "ratio", "from", "to", "good", "refused", "failed", "cpu", "memory MiB",
    "left", "back s", "broken",
)  # fmt: skip


def document(trial: Trial) -> dict[str, Any]:
    """Return what was measured as plain values."""
    fates = trial.fates
    return {
        "attack": trial.attack,
        "how": trial.how,
        "overload": trial.overload,
        "without": _median(trial, trial.calm),
        "with": _median(trial, trial.stormy),
        "ratio": _rounded(trial.ratio),
        "ratios": [_rounded(each) for each in trial.ratios],
        "good": fates["good"],
        "refused": fates["refused"],
        "failed": fates.total() - fates["good"] - fates["refused"],
        "cpu": [_cpu(trial.calm), _cpu(trial.stormy)],
        "grown_mib": trial.grown_bytes >> 20,
        "left_mib": trial.left_bytes >> 20,
        "back_s": _rounded(trial.back_s),
        "seen": dict(trial.seen),
        "rounds": [[asdict(a), asdict(b)] for a, b in zip(trial.calm, trial.stormy, strict=True)],
        "broken": list(judged(trial, Finding.BROKEN)),
        "open": list(judged(trial, Finding.OPEN)),
    }


def _median(trial: Trial, rounds: Sequence[Round]) -> float | None:
    """Return p99 in milliseconds, or of an overload what is answered a second."""
    found = [each.goodput_per_s if trial.overload else each.p99_ms for each in rounds]
    there = [each for each in found if each is not None]
    return round(statistics.median(there), 3) if there else None


def _cpu(rounds: Sequence[Round]) -> float | None:
    return _rounded(statistics.median(each.cpu for each in rounds)) if rounds else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    unit, digits = ("/s", 0) if row["overload"] else (" ms", 2)
    ratios = row["ratios"]
    return [
        row["attack"],
        *("-" if row[name] is None else f"{row[name]:.{digits}f}{unit}" for name in ("without", "with")),
        *("-" if not ratios else f"{each:.2f}" for each in (row["ratio"], *_ends(ratios))),
        *(str(row[name]) for name in ("good", "refused", "failed")),
        "/".join("-" if each is None else f"{each:.2f}" for each in row["cpu"]),
        f"+{row['grown_mib']}",
        str(row["left_mib"]),
        "never" if row["back_s"] is None else f"{row['back_s']:.1f}",
        str(len(row["broken"])) + (f", {len(row['open'])} open" if row["open"] else ""),
    ]


def _ends(ratios: Sequence[float]) -> tuple[float, float]:
    return (min(ratios), max(ratios)) if ratios else (0.0, 0.0)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return all rows in columns."""
    return columns.table([COLUMNS, *map(cells, rows)])


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return all rows as a table of Markdown."""
    return columns.markdown([COLUMNS, *map(cells, rows)])


def write(path: Path, machine: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the document, and its table in Markdown beside it."""
    lines = [line for row in rows for line in row["broken"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"machine": machine, "attacks": list(rows), "broken": lines, "ok": not lines}
    path.write_text(json.dumps(made, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"{machine}\n\n{markdown(rows)}\n")
