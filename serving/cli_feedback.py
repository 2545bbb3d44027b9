"""How are labels given, and how good answers are looked at, on the command line?"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from router.names import check_version, reference
from serving.cli_traffic import UNCLEAR, access_of, bare, checked, tell
from serving.mistake import Mistake

TOGETHER = 10_000
"""Labels in one request, as many as it takes."""
TOGETHER_BYTES = 3 << 20
LINE_CHARACTERS_MAX = 1 << 20
COLUMNS = ("id", "label", "score", "row", "time")
COUNTS = ("labels", "joined", "repeated", "misfit", "unmatched")
IDS_SHOWN_MAX = 10
Document = dict[str, Any]


def feedback(arguments: argparse.Namespace) -> int:
    """Give labels; 1 if one of them counts for nothing, or it is not known of all what came of them."""
    from serving.cli_ask import Unclear, ask
    from serving.labels import shown

    path = f"/v2/models/{bare(arguments)}/feedback"
    access = access_of(arguments)
    whole: Document = {}
    for body in _bodies(arguments):
        try:
            answer = ask(access, path, body, arguments.timeout)
        except Unclear as unclear:
            said = f"{unclear}; {_counted(whole)}give the labels again, none counts twice"
            return tell(arguments, UNCLEAR, {"error": said}, shown.given)
        if answer.status != 200:
            said = f"{_counted(whole)}{answer.error}"
            return tell(arguments, answer.status, {"error": said}, shown.given)
        whole = _added(whole, answer.document)
    tell(arguments, 200, whole, shown.given)
    return 1 if whole["misfit"] or whole["unmatched"] or whole["missing"] else 0


def quality(arguments: argparse.Namespace) -> int:
    """Print how good the answers of a model are; 1 if a version is wrong more often than it was."""
    from serving.cli_ask import ask
    from serving.labels import shown

    model, named = checked(reference, arguments.model)
    version = arguments.version or named
    if named and arguments.version and named != arguments.version:
        raise Mistake(f"{arguments.model} names a version already, and --version another one")
    path = f"/v2/models/{model}/quality"
    path += f"?version={checked(check_version, version)}" if version else ""
    answer = ask(access_of(arguments), path, s_max=arguments.timeout)
    code = tell(arguments, answer.status, answer.document, shown.quality)
    if answer.status != 200:
        return code
    return int(any((each["loss"] or {}).get("state") == "degraded" for each in answer.document["versions"]))


def _bodies(arguments: argparse.Namespace) -> Iterator[Document]:
    """Return what is to be sent: one label, or those of a file, many at a time."""
    single = {name: value for name in COLUMNS if (value := getattr(arguments, name)) is not None}
    if arguments.source is None:
        if "id" not in single or ("label" in single) == ("score" in single):
            raise Mistake("say --id and --label or --score, or --from FILE with many of them")
        if "label" in single:
            single["label"] = _label(single["label"])
        yield single
        return
    if single:
        raise Mistake(f"--{next(iter(single))} is of a single label, and --from FILE has many")
    together: list[Document] = []
    size = 0
    for label, characters in _labels(arguments.source):
        if together and (len(together) >= TOGETHER or size + characters > TOGETHER_BYTES):
            yield {"labels": together}
            together, size = [], 0
        together.append(label)
        size += characters
    if not together:
        raise Mistake(f"{arguments.source} has no labels")
    yield {"labels": together}


def _labels(path: Path) -> Iterator[tuple[Document, int]]:
    """Yield the labels of a file, and about how many bytes each is."""
    ways = {".csv": _of_table, ".jsonl": _of_lines}
    if path.suffix not in ways:
        raise Mistake(f"{path}: labels are read from .csv and .jsonl")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for label in ways[path.suffix](path, file):
                yield label, 16 + sum(len(name) + 4 * len(str(value)) + 8 for name, value in label.items())
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Mistake(f"{path}: not UTF-8: {error}") from None


def _of_table(path: Path, file: IO[str]) -> Iterator[Document]:
    reader = csv.DictReader(file)
    try:
        names = [name for name in reader.fieldnames or () if name]
        if "id" not in names or not {"label", "score"} & set(names) or set(names) - set(COLUMNS):
            raise Mistake(
                f"{path}: a header with id and label or score is expected, perhaps with row and time; "
                f"got {', '.join(names)[:200] or 'nothing'}"
            )
        for row in reader:
            yield _of_row(f"{path}:{reader.line_num}", row)
    except csv.Error as error:
        raise Mistake(f"{path}:{reader.line_num}: {error}") from None


def _of_row(where: str, row: dict[str, Any]) -> Document:
    said = {name: value for name, value in row.items() if isinstance(value, str) and value}
    if None in row or "id" not in said or ("label" in said) == ("score" in said):
        raise Mistake(
            f"{where}: an id, and a label or a score, are expected in as many columns as the header has"
        )
    label: Document = dict(said)
    try:
        if "label" in said:
            label["label"] = _label(said["label"])
        if "score" in said:
            label["score"] = float(said["score"])
        if "row" in said:
            label["row"] = int(said["row"])
    except ValueError as error:
        raise Mistake(f"{where}: {error}") from None
    return label


def _of_lines(path: Path, file: IO[str]) -> Iterator[Document]:
    for number, line in enumerate(iter(lambda: file.readline(LINE_CHARACTERS_MAX), ""), start=1):
        if not line.strip():
            continue
        try:
            label = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Mistake(f"{path}:{number}: no JSON: {error}") from None
        if not isinstance(label, dict):
            raise Mistake(f"{path}:{number}: expected an object with an id, and a label or a score")
        yield label


def _label(text: str) -> int | str:
    """Return a class as it is meant: digits are its number, anything else its name."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else text


def _added(whole: Document, more: Document) -> Document:
    if not whole:
        return more
    ids = {
        outcome: [*whole["ids"].get(outcome, ()), *ids][:IDS_SHOWN_MAX]
        for outcome, ids in more["ids"].items()
    }
    missing = sorted({*whole["missing"], *more["missing"]})
    return {**whole, **{name: whole[name] + more[name] for name in COUNTS}, "missing": missing, "ids": ids}


def _counted(whole: Document) -> str:
    return f"{whole['labels']:,} labels before these were taken: " if whole else ""
