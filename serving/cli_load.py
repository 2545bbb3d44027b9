"""How are models loaded and unloaded on the command line?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from serving.cli_traffic import UNCLEAR, access_of, bare, login, tell
from serving.mistake import Mistake


def load(arguments: argparse.Namespace) -> int:
    """Load a model as it lies in the repository now."""
    parameters: dict[str, Any] = {}
    if arguments.override is not None:
        try:
            parameters["config"] = arguments.override.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise Mistake(f"{arguments.override}: {reason}") from None
    return _order(arguments, "load", parameters)


def unload(arguments: argparse.Namespace) -> int:
    """Stop serving a model until it is loaded again."""
    return _order(arguments, "unload", {})


def _order(arguments: argparse.Namespace, verb: str, parameters: dict[str, Any]) -> int:
    from serving.cli_ask import Unclear, ask

    path = f"/v2/repository/models/{bare(arguments)}/{verb}"
    body = {"parameters": parameters, "by": arguments.by or login()}
    try:
        answer = ask(access_of(arguments), path, body, arguments.timeout, afterwards="turnout status")
    except Unclear as unclear:
        return tell(arguments, UNCLEAR, {"error": str(unclear)}, _words)
    code = tell(arguments, answer.status, answer.document, _words)
    return 1 if answer.status == 200 and answer.document["missing"] else code


def _words(said: Mapping[str, Any]) -> Iterator[str]:
    from serving.cli_words import aligned, plain

    what = "loaded" if said["loaded"] else "unloaded"
    with_ = ", with a configuration of its own" if said["configured"] else ""
    yield plain(f"{said['model']}: {what}{with_}, in {said['ms']:.1f} ms")
    rows = [(name, ", ".join(said[name])) for name in ("done", "missing") if said[name]]
    yield from aligned(rows, "  ")
