"""How is the brake pulled on the command line, where perhaps no control answers?"""

from __future__ import annotations

import argparse
import json
from difflib import get_close_matches
from pathlib import Path

from router.names import check_version
from serving import access
from serving.brake import FOLDER, pull, release
from serving.cli_traffic import AUTO, aside, checked, configured, safely
from serving.mistake import Mistake
from serving.private import NotPrivate


def brake(arguments: argparse.Namespace, model: str) -> int:
    """Pull or release the brake of a model on this node."""
    if arguments.release and arguments.to:
        raise Mistake("--release lets the table count again, so there is no version for it --to name")
    version = checked(check_version, arguments.to) if arguments.to else ""
    folder, repository = _brake_folder(arguments)
    try:
        if arguments.release:
            was = release(folder, model)
            words = "the brake is released; the routing table counts" if was else "the brake was not on"
        else:
            _check_in_repository(repository, model)
            pull(folder, model, version)
            words = f"the brake is on: {f'version {version}' if version else 'the stable version'} answers"
            words += " on this node, whatever is decided; "
            words += f"to end it: turnout brake {model} --release{aside(arguments)}"
    except (OSError, NotPrivate) as error:
        raise Mistake(f"{model}: {error}") from None
    said = {
        "model": model,
        "on": not arguments.release,
        "version": version,
        "file": str(folder / FOLDER / model),
    }
    print(json.dumps(said) if arguments.json else f"{model}: {words}")
    return 0


def _brake_folder(arguments: argparse.Namespace) -> tuple[Path, str]:
    """Return the private folder of the gateway that is meant, and its repository."""
    if arguments.config != AUTO:
        config = configured(Path(arguments.config))
        return safely(lambda: access.control_folder(config)), str(config.repository.path)
    said = safely(lambda: access.the_only(access.running()))
    return said.folder, said.repository


def _check_in_repository(repository: str, model: str) -> None:
    """Refuse a name that is none of the repository's: in haste one mistypes, and nothing would stop."""
    try:
        names = [path.name for path in Path(repository).iterdir()] if repository else []
    except OSError:
        return
    if names and model not in names:
        near = get_close_matches(model, names, n=1)
        raise Mistake(
            f"no model {model!r} in {repository}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
