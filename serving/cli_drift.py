"""How are profiles made and drift looked at on the command line?

Light until a profile is made of a file, which takes NumPy and ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.names import check_version, reference
from serving.cli_traffic import UNCLEAR, access_of, checked, safely, tell
from serving.mistake import Mistake

if TYPE_CHECKING:
    from serving.access import Access
    from serving.config import Config
    from serving.drift.profile import Profile
    from serving.drift.rows import Table

DOCUMENT_BYTES_MAX = 256 << 20
Document = dict[str, Any]


def drift(arguments: argparse.Namespace) -> int:
    """Print how far requests and answers are from what was normal; 1 if they are too far."""
    from serving.cli_ask import ask
    from serving.drift import shown

    model, named = checked(reference, arguments.model)
    version = arguments.version or named
    if named and arguments.version and named != arguments.version:
        raise Mistake(f"{arguments.model} names a version already, and --version another one")
    path = f"/v2/models/{model}/drift"
    path += f"?version={checked(check_version, version)}" if version else ""
    answer = ask(access_of(arguments), path, s_max=arguments.timeout)
    code = tell(arguments, answer.status, answer.document, shown.report)
    return 1 if answer.status == 200 and answer.document["drifted"] else code


def profile(arguments: argparse.Namespace) -> int:
    """Make, show, freeze or drop the profile of a version."""
    model, version = _model_and_version(arguments.model)
    path = f"/v2/models/{model}/versions/{version}/profile"
    if arguments.source is not None:
        return _from_file(arguments, model, version, path)
    _check_alone(arguments)
    if arguments.freeze is not None:
        return _change(arguments, "POST", f"{path}/freeze", {"rows": arguments.freeze})
    if arguments.drop:
        return _change(arguments, "DELETE", path, None)
    return _show(arguments, path)


def _model_and_version(text: str) -> tuple[str, str]:
    model, named = checked(reference, text)
    if not named or named.startswith("@"):
        raise Mistake(f"{text}: a profile is of one version, named by its number: {model}@8")
    return model, named


def _check_alone(arguments: argparse.Namespace) -> None:
    for option, value in (("--ignore", arguments.ignore), ("--repository", arguments.repository)):
        if value:
            raise Mistake(f"{option} goes with --from, which reads rows")
    if arguments.to is not None and (arguments.drop or arguments.freeze is not None):
        raise Mistake("--to writes a profile that there is: alone, or with --from")


def _show(arguments: argparse.Namespace, path: str) -> int:
    """Print which profile counts, or write it into a file."""
    from serving.cli_ask import ask
    from serving.drift import shown

    answer = ask(access_of(arguments), path, s_max=arguments.timeout)
    if answer.status != 200 or arguments.to is None:
        return tell(arguments, answer.status, answer.document, shown.standing)
    if answer.document["document"] is None:
        raise Mistake(f"{arguments.model} has no profile to write")
    _write(arguments.to, answer.document["document"])
    return tell(arguments, 200, answer.document, lambda said: [*shown.standing(said), _written(arguments)])


def _change(arguments: argparse.Namespace, method: str, path: str, body: Document | None) -> int:
    """Ask for a change of the profile, and print which counts then."""
    from serving.cli_ask import Unclear, ask
    from serving.drift import shown

    again = f"turnout profile {arguments.model}"
    try:
        answer = ask(access_of(arguments), path, body, arguments.timeout, method=method, afterwards=again)
    except Unclear as unclear:
        return tell(arguments, UNCLEAR, {"error": str(unclear)}, shown.standing)
    return tell(arguments, answer.status, answer.document, shown.standing)


def _from_file(arguments: argparse.Namespace, model: str, version: str, path: str) -> int:
    """Make the profile, or read one that was written, and give it to the gateway or write it."""
    from serving.drift.profile_json import to_json

    if arguments.to is None:
        access_of(arguments)  # Nobody waits for a profile that then finds no gateway.
    unused: tuple[str, ...] = ()
    if arguments.source.suffix == ".json":
        made = _read(arguments.source, model, version)
    else:
        made, unused = _made(arguments, model, version)
    if not arguments.json:
        print(*_described(made, unused), sep="\n")
    if arguments.to is None:
        return _change(arguments, "PUT", path, to_json(made))
    _write(arguments.to, to_json(made))
    print(
        json.dumps({"file": str(arguments.to), "hash": made.hash}) if arguments.json else _written(arguments)
    )
    return 0


def _read(path: Path, model: str, version: str) -> Profile:
    from serving.drift.profile import InvalidProfile
    from serving.drift.profile_json import from_json

    try:
        with path.open("rb") as file:
            read = from_json(json.loads(file.read(DOCUMENT_BYTES_MAX)))
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except InvalidProfile as error:
        raise Mistake(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Mistake(f"{path}: no JSON: {error}") from None
    if (read.model, read.version) != (model, version):
        raise Mistake(f"{path} is the profile of {read.model}@{read.version}, not of {model}@{version}")
    return read


def _made(arguments: argparse.Namespace, model: str, version: str) -> tuple[Profile, tuple[str, ...]]:
    """Run the version over the rows of a file; return its profile, and what of the file was not used."""
    import time

    from serving.clock import utc
    from serving.drift import offline
    from serving.drift.profile import InvalidProfile
    from serving.drift.rows import BadRows, open_rows

    config = _config(arguments)
    try:
        with offline.opened(config, model, version) as opened:
            table: Table = open_rows(arguments.source, opened.inputs, arguments.ignore)
            made = offline.profile(opened, table, config, utc(time.time_ns() // 1000))
    except (offline.Unusable, BadRows, InvalidProfile) as error:
        raise Mistake(str(error)) from None
    return made, table.unused


def _config(arguments: argparse.Namespace) -> Config:
    """Return a configuration with the repository that is meant, which may be that of a gateway that runs."""
    from serving.cli import configuration

    if arguments.repository or arguments.config:
        return configuration(arguments)
    said = argparse.Namespace(config=None, repository=_repository(arguments))
    return configuration(said)


def _repository(arguments: argparse.Namespace) -> str:
    from serving import access

    found = safely(access.running)
    if arguments.admin_url is not None:
        way: Access = safely(lambda: access.find(arguments.admin_url))
        found = [each for each in found if each.url == way.url]
    elsewhere = "say --repository DIR or --config FILE to name the folder of the models"
    if not found:
        raise Mistake(f"no gateway of yours runs here whose models could be meant; {elsewhere}")
    only = safely(lambda: access.the_only(found))
    if not only.repository:
        raise Mistake(f"{only.url} does not say where its models are; {elsewhere}")
    return only.repository


def _described(made: Profile, unused: tuple[str, ...]) -> list[str]:
    from kernels.detect import REFERENCE_MIN
    from serving.cli_words import aligned, plain

    title = f"{made.model}@{made.version}: profile {made.hash[:12]} of {made.n:,} rows from {made.source}"
    rows = [
        (
            name,
            each.of,
            each.view,
            f"{each.features:,} feature{'s' * (each.features != 1)}",
            f"{each.n:,} rows",
        )
        for name, each in made.tensors.items()
    ]
    lines = [plain(title), *aligned(rows, "  ")]
    if unused:
        lines.append(plain(f"  not used of the file: {', '.join(unused[:8])}{' ...' * (len(unused) > 8)}"))
    if made.n < REFERENCE_MIN:
        lines.append(
            "  too few rows for alarms: changes are measured, but nothing is called drift; that takes "
            f"{REFERENCE_MIN:,} rows"
        )
    return lines


def _write(path: Path, document: Document) -> None:
    try:
        path.write_text(json.dumps(document) + "\n")
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None


def _written(arguments: argparse.Namespace) -> str:
    from serving.cli_words import plain

    path = arguments.to
    return plain(f"written to {path}; turnout profile {arguments.model} --from {path} gives it to a gateway")
