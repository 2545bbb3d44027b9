"""How is the report of a replay written for people? Versions side by side, then how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serving.cli_words import aligned, moment, plain

Document = Mapping[str, Any]
"""As it came in JSON."""
HEAD = ("version", "rows", "errors", "NaN", "median run", "p99", "confidence", "right", "drift")
FLIPS_SHOWN_MAX = 3
FEATURES_SHOWN_MAX = 3


def report(said: Document) -> list[str]:
    """Write what came of a replay."""
    lines = [plain(_headline(said))]
    lines += aligned([HEAD, *(_version(each) for each in said["versions"])], "  ")
    remarks = [*_remarks(said), *_pairs(said)]
    return lines + (aligned(remarks, "  ") if remarks else [])


def _headline(said: Document) -> str:
    answered = ", ".join(f"{count:,} by {version}" for version, count in said["answered_by"].items())
    cut = ", until time ran out" if said["cut"] else ""
    return (
        f"{said['model']}: {said['rows']:,} inputs from {moment(said['since'])} to {moment(said['until'])} "
        f"(answered: {answered}), replayed in {said['replica']} in {said['took_s']:.1f} s{cut}"
    )


def _version(each: Document) -> tuple[str, ...]:
    latency, sure = each["latency"] or {}, each["confidence"] or {}
    return (
        each["version"],
        f"{each['rows']:,}",
        "not run" if each["fault"] else f"{each['errors']:,}",
        f"{each['odd']:,}",
        _time(latency.get("p50_s")),
        _time(latency.get("p99_s")),
        f"{sure['mean']:.3f}" if sure else "-",
        _right(each["labelled"]),
        _drift(each["drift"]),
    )


def _right(labelled: Document | None) -> str:
    if labelled is None:
        return "no labels"
    return f"{labelled['right'] / labelled['known']:.1%} of {labelled['known']:,}"


def _drift(drift: Document | None) -> str:
    if drift is None:
        return "no profile"
    if drift["thin"]:
        return "thin profile"
    if not drift["drifted"]:
        return "no drift"
    count = sum(each["features_drifted"] for each in drift["tensors"])
    return f"{count} of {sum(each['features'] for each in drift['tensors'])} features"


def _remarks(said: Document) -> Iterator[tuple[str, str]]:
    for each in said["versions"]:
        if each["fault"]:
            yield f"version {each['version']}", each["fault"]
        for reason in each["reasons"]:
            yield f"version {each['version']}", f"error: {reason}"
        for tensor in each["drift"]["tensors"] if each["drift"] is not None else ():
            if tensor["features_drifted"]:
                yield (
                    f"version {each['version']}",
                    f"drift of {tensor['of']} {tensor['tensor']}: {_worst(tensor)}",
                )
    if said["whole_runs"] and said["rows"] > said["whole_runs"]:
        yield "inputs", f"{said['whole_runs']:,} are whole runs, the others rows"


def _worst(tensor: Document) -> str:
    worst = [each for each in tensor["worst"] if each["drifted"]][:FEATURES_SHOWN_MAX]
    return ", ".join(f"{each['feature']} (PSI {each['psi_corrected']:.3g})" for each in worst)


def _pairs(said: Document) -> Iterator[tuple[str, str]]:
    for pair in said["pairs"]:
        name = f"{pair['one']} and {pair['other']}"
        if pair["disagreement"] is not None:
            yield name, f"{pair['disagreement']:.1%} decided differently{_flips(pair['flips'])}"
        if pair["labelled"] is not None:
            alone = [f"{pair[side]} alone on {pair['labelled'][side]:,}" for side in ("one", "other")]
            yield name, f"right is {', '.join(alone)}"
        for output in pair["outputs"]:
            yield name, f"{output['output']}: {', '.join(_parts(output))}"


def _parts(output: Document) -> Iterator[str]:
    if output["unequal"] is not None:
        yield f"{output['unequal']:.1%} differ"
    if output["mean_difference"] is not None:
        yield f"differs by {output['mean_difference']:.3g}, by {output['max_difference']:.3g} at most"
    if output["misfits"]:
        yield f"{output['misfits']:,} of another shape"
    if output["unequal"] is None and output["mean_difference"] is None:
        yield "nothing to compare"


def _flips(flips: list[Document]) -> str:
    shown = [f"{each['one']} -> {each['other']} {each['rows']:,}" for each in flips[:FLIPS_SHOWN_MAX]]
    more = ", ..." if len(flips) > FLIPS_SHOWN_MAX else ""
    return f" ({', '.join(shown)}{more})" if shown else ""


def _time(value_s: float | None) -> str:
    if value_s is None:
        return "-"
    return f"{value_s * 1e6:.0f} us" if value_s < 1e-3 else f"{value_s * 1e3:.3g} ms"
