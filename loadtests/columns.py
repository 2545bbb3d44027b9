"""How are rows of cells shown: in columns on a terminal, or as a table of Markdown?"""

from __future__ import annotations

from collections.abc import Sequence

Lines = Sequence[Sequence[str]]
"""Each of as many cells as there are columns, the first with their names."""


def table(lines: Lines) -> str:
    """Return them in columns, the first to the left, all others to the right."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def markdown(lines: Lines) -> str:
    """Return them as a table of Markdown."""
    names, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *rows))
