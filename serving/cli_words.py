"""How are receipts, standings and histories written for people?

Nothing that somebody else wrote reaches the terminal but as printable text on its own line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def plain(words: object) -> str:
    """Return text without line breaks and control characters, such as those that move a cursor."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(words))


def receipt(said: Document, aside: str = "", rows: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Write what came of a change; `aside` are options that its undoing needs, too, `rows` come first."""
    lines = [plain(_headline(said))]
    now = said["route"] or _alias(said["change"])
    rows = [*rows, ("now", now)] if now else [*rows]
    rows += [
        (name, ", ".join(said[name]))
        for name in ("acknowledged", "killed", "fenced", "missing")
        if said[name]
    ]
    if said["undo"]:
        rows.append(("undo", f"{said['undo']}{aside}"))
    return lines + aligned(rows, "  ")


def _headline(said: Document) -> str:
    what, revision = f"{said['model']}: {said['verb']}", f"revision {said['revision']}"
    if said["dry_run"]:
        effect = f"change nothing in {revision}" if said["unchanged"] else f"make {revision}"
        return f"{what} would {effect}; this was a dry run, nothing was done"
    if said["confirmed"]:
        already = ", which had it so already" if said["unchanged"] else ""
        return f"{what} confirmed as {revision}{already}, in {said['ms']:.1f} ms"
    missing = len(said["missing"])
    return (
        f"{what} NOT CONFIRMED: {revision} is in the journal, but {missing} "
        f"replica{'s' * (missing > 1)} may still answer as before"
    )


def _alias(change: Document) -> str:
    return f"{change['alias']}={change['version'] or ''}" if change["set"] == "alias" else ""


def traffic(said: Document) -> list[str]:
    """Write how all traffic stands."""
    replicas = said["replicas"]
    lines = [plain(f"revision {said['revision']}, term {said['term']}, {_connected(replicas)}")]
    for model, each in said["models"].items():
        lines += ["", *standing(model, {**each, "replicas": replicas})]
    return lines


def standing(model: str, said: Document) -> list[str]:
    """Write how the traffic of a model stands."""
    since, count = said["since"], sum(1 for each in said["replicas"] if each["connected"])
    decided = f"{since['verb']} by {since['by']}: {since['why']}"
    lines = [
        plain(f"{model}  {said['route']}"),
        plain(f"  revision {since['revision']}, {moment(since['at'])}, {decided}"),
    ]
    ready = said["versions_ready"]
    table = [("version", "weight", "share", "ready in")]
    weights = {each["version"]: each for each in said["shares"]}
    for version in sorted({*weights, *ready}, key=int, reverse=True):
        share = weights.get(version, {})
        weight, real = share.get("weight_bp"), share.get("share")
        table.append(
            (
                version,
                "-" if weight is None else _percent(weight / 100),
                "-" if real is None else _percent(real * 100),
                f"{ready.get(version, 0)} of {count}",
            )
        )
    return lines + aligned(table, "  ") + aligned(_remarks(model, said), "  ")


def _remarks(model: str, said: Document) -> Iterator[tuple[str, str]]:
    if said["pinned"]:
        yield "pinned", f"version {said['pinned']} (turnout unpin {model})"
    if said["shadows"]:
        yield (
            "shadows",
            " ".join(f"{each['version']}={_percent(each['share_bp'] / 100)}" for each in said["shadows"]),
        )
    if said["sticky"]:
        yield "sticky", f"{', '.join(said['sticky']['keys'])}; salt {said['sticky']['salt']!r}"
    if said["aliases"]:
        yield "aliases", " ".join(f"{alias}={version}" for alias, version in sorted(said["aliases"].items()))
    if said["brakes"]:
        pulled = ", ".join(
            f"{version or 'stable'} in {name}" for name, version in sorted(said["brakes"].items())
        )
        yield "BRAKE", f"{pulled} (turnout brake {model} --release)"
    dealt = said["split"]
    yield "dealt", dealt["verdict"] + (f" (e = {dealt['e']:.3g})" if any(dealt["counts"].values()) else "")
    if said["last_good"]:
        yield "last good", f"version {said['last_good']} (turnout rollback {model})"


def history(said: Document) -> list[str]:
    """Write what was decided about a model, oldest first."""
    rows = [("revision", "when", "who", "what", "from", "to", "why")]
    rows += [
        (
            str(each["revision"]),
            moment(each["at"]),
            each["by"],
            each["verb"],
            each["from"] or "-",
            each["to"] or "-",
            each["why"],
        )
        for each in said["entries"]
    ]
    lines = aligned(rows)
    if said["at"]:
        at = said["at"]
        served = f"{at['route']} (revision {at['revision']})" if at["route"] else "nothing was decided yet"
        lines.append(plain(f"at {moment(at['time'])}: {served}"))
    return lines


def journal(said: Document) -> list[str]:
    """Write a whole journal, a line for each entry."""
    rows = [("revision", "term", "model", "verb", "who", "why", "hash")]
    rows += [
        (
            str(each["revision"]),
            str(each["term"]),
            each["change"]["model"],
            str(each["change"].get("verb") or each["change"]["set"]),
            each["by"],
            each["why"],
            each["hash"][:16],
        )
        for each in said["entries"]
    ]
    return aligned(rows)


def verified(said: Document) -> list[str]:
    """Write that a journal is what was written."""
    return [plain(f"ok: {said['revision']} entries, each as it was written; the last hash is {said['hash']}")]


def nested(said: object, indent: str = "") -> Iterator[str]:
    """Write plain values of any shape, one on a line."""
    pairs = said.items() if isinstance(said, Mapping) else enumerate(said) if isinstance(said, list) else ()
    for name, value in pairs:
        if isinstance(value, Mapping | list) and value:
            yield plain(f"{indent}{name}")
            yield from nested(value, indent + "  ")
        else:
            yield plain(f"{indent}{name}  {value}")


def aligned(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Write rows whose columns begin below each other."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def moment(text: str) -> str:
    """Write a moment of a document to the second, in UTC."""
    return f"{text[:10]} {text[11:19]}Z"


def _connected(replicas: Sequence[Document]) -> str:
    count = sum(1 for each in replicas if each["connected"])
    others = f", {len(replicas) - count} not connected" if count < len(replicas) else ""
    return f"{count} replica{'s' * (count != 1)}{others}"


def _percent(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"
