"""What does a person read? One page that needs nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from loadtests.slo.plots import plots
from loadtests.slo.reading import Cell, Reading
from loadtests.slo.results import Judged
from loadtests.slo.verdict import WORDS, percentile_ms, where

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328 }
body { max-width: 920px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.yes { color: #1a7f37 } .no { color: #cf222e }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid #d0d7de }
td:first-child, th:first-child { text-align: left }
svg { width: 100%; font: 12px system-ui, sans-serif; fill: #57606a }
svg .line { fill: none; stroke-width: 1.8 } svg .axis { fill: none; stroke: #57606a }
svg .grid { stroke: #d0d7de }
svg path.mark { stroke: #9a6700; stroke-dasharray: 2 3 } svg text.mark { fill: #9a6700 }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(judged: Judged) -> str:
    """Return the report as HTML."""
    parts = [
        *_head(judged),
        *_broken(judged),
        *_pictures(judged),
        *_changes(judged),
        *_totals(judged),
        *_mistakes(judged),
    ]
    return "\n".join([*parts, *_promises(judged), "</body></html>", ""])


def _head(judged: Judged) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield f"<title>Load test: {'yes' if judged.ok else 'no'}</title><style>{STYLE}</style></head><body>"
    yield f'<h1 class="{"yes" if judged.ok else "no"}">{escape(judged.line)}</h1>'
    yield f"<p>{escape(judged.run.what)}<br>{escape(judged.run.machine)}</p>"


def _broken(judged: Judged) -> Iterator[str]:
    if judged.broken:
        lines = "".join(f"<li>{escape(line)}</li>" for line in judged.broken)
        yield f"<h2>Broken promises</h2><ul>{lines}</ul>"


def _pictures(judged: Judged) -> Iterator[str]:
    for chart in plots(judged.run):
        yield f"<h2>{escape(chart.title)}</h2>{chart.svg()}"


def _changes(judged: Judged) -> Iterator[str]:
    rows = (
        (
            str(number),
            f"{each.at_s:.2f}",
            f"{(each.at_s - each.asked_s) * 1e3:.0f}",
            str(each.revision),
            "yes" if each.confirmed else "no",
            each.what,
        )
        for number, each in enumerate(judged.run.changes, 1)
    )
    yield "<h2>Changes</h2>"
    yield _table(("", "confirmed at s", "after ms", "revision", "confirmed", "what"), rows)


def _totals(judged: Judged) -> Iterator[str]:
    heads = (
        "phase, model and version",
        "requests",
        "errors",
        "stale",
        "p50",
        "p95",
        "p99",
        "p99.9",
        "max ms",
    )
    yield "<h2>Requests</h2>"
    yield _table(heads, (_row(cell, reading) for cell, reading in judged.run.readings.cells.items()))


def _row(cell: Cell, reading: Reading) -> Sequence[str]:
    who = (
        f"{cell.phase}: {cell.model}@{cell.version}"
        if cell.version
        else f"{cell.phase}: {cell.model}, unanswered"
    )
    times = [percentile_ms(reading, each) for each in (50.0, 95.0, 99.0, 99.9, 100.0)]
    told = ["" if math.isnan(each) else f"{each:.2f}" for each in times]
    return (who, str(reading.count), str(reading.errors), str(reading.stale), *told)


def _mistakes(judged: Judged) -> Iterator[str]:
    if judged.run.mistakes:
        rows = ((each.error, each.phase, str(each.count)) for each in judged.run.mistakes)
        yield "<h2>Errors</h2>"
        yield _table(("error", "phase", "requests"), rows)


def _promises(judged: Judged) -> Iterator[str]:
    rows = (
        (
            where(each.at),
            WORDS[each.quantity],
            f"{each.bound:g}",
            _number(each.measured),
            "yes" if each.kept else "NO",
        )
        for each in judged.checks
    )
    yield "<h2>Promises</h2>"
    yield _table(("where", "what", "promised", "measured", "kept"), rows)


def _number(value: float) -> str:
    return "nothing" if math.isnan(value) else f"{value:.4g}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    told = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>\n{told}</table>"
