"""How is what was measured told: on a terminal, in Markdown, in JSON?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests import columns
from loadtests.chaos.promises import broken
from loadtests.chaos.trial import Trial

COLUMNS = (
    "fault", "requests", "failed", "in flight", "gap s", "whole s", "stale", "mixed", "receipts", "lost",
    "memory MiB", "broken",
)  # fmt: skip


def document(trial: Trial) -> dict[str, Any]:
    """Return what was measured as plain values; the keys in the table's order."""
    whole_s = trial.whole_s
    return {
        "fault": trial.fault,
        "how": trial.how,
        "requests": len(trial.requests),
        "failed": len(trial.failed),
        "in_flight": len(trial.failed) - len(trial.unexcused),
        "gap_s": round(trial.gap_s, 3),
        "whole_s": None if whole_s is None else round(whole_s, 2),
        "stale": trial.stale,
        "mixed": trial.mixed,
        "decisive": trial.verdict.decisive,
        "receipts": len(trial.receipts),
        "lost": len(trial.lost),
        "memory_grown_mib": round(trial.memory_grown / 2**20),
        "memory_high_mib": round(trial.memory_high / 2**20),
        "note": trial.note,
        "broken": list(broken(trial)),
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    whole = "never" if row["whole_s"] is None else f"{row['whole_s']:.1f}"
    numbers = [row[name] for name in ("stale", "mixed", "receipts", "lost")]
    return [
        row["fault"],
        *(str(row[name]) for name in ("requests", "failed", "in_flight")),
        f"{row['gap_s']:.2f}",
        whole,
        *map(str, numbers),
        f"+{row['memory_grown_mib']}",
        str(len(row["broken"])),
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return all rows in columns."""
    return columns.table([COLUMNS, *map(cells, rows)])


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return all rows as a table of Markdown."""
    return columns.markdown([COLUMNS, *map(cells, rows)])


def how(rows: Sequence[dict[str, Any]]) -> str:
    """Return how each fault is made as a table of Markdown."""
    return columns.markdown([("fault", "how it is made"), *((row["fault"], row["how"]) for row in rows)])


def write(path: Path, machine: str, rows: Sequence[dict[str, Any]], skipped: dict[str, str]) -> None:
    """Write the document, and its tables in Markdown beside it."""
    lines = [line for row in rows for line in row["broken"]]
    made = {"machine": machine, "faults": rows, "skipped": skipped, "broken": lines, "ok": not lines}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"{markdown(rows)}\n\n{how(rows)}\n")
