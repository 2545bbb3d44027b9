"""How are rollouts begun, looked at, led and checked again on the command line?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import cli_traffic
from serving.cli_traffic import Document, access_of, aside, bare, configured, look, tell
from serving.mistake import Mistake

if TYPE_CHECKING:
    from router.plan import Plan

FILE_BYTES_MAX = 1 << 20
ACTIONS = ("start", "status", "promote", "pause", "resume", "abort", "retry", "check")


def rollout(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    action = arguments.action
    if arguments.full and action != "promote":
        raise Mistake(f"--full is of promote, not of {action}")
    if arguments.base is not None and action != "check":
        raise Mistake(f"--base is of check, not of {action}")
    match action:
        case "check":
            return _check(arguments)
        case "start":
            return _start(arguments)
        case "status":
            return _status(arguments)
        case _:
            return _lead(arguments)


def _status(arguments: argparse.Namespace) -> int:
    """Print how a rollout stands."""
    from serving.rollout import shown

    return look(arguments, f"/v2/models/{_model(arguments)}/rollout", shown.status)


def _lead(arguments: argparse.Namespace) -> int:
    """Promote, pause, resume, abort or retry."""
    said = {"full": True} if arguments.full else {}
    path = f"/v2/models/{_model(arguments)}/rollout/{arguments.action}"
    return cli_traffic.change(arguments, path, said, lambda it: _receipt(it, arguments))


def _start(arguments: argparse.Namespace) -> int:
    """Begin a rollout."""
    values, plan = _read(arguments.of)
    path = f"/v2/models/{plan.model}/rollout"
    return cli_traffic.change(arguments, path, {"document": values}, lambda it: _receipt(it, arguments))


def _check(arguments: argparse.Namespace) -> int:
    """Say what a rollout would do and how many requests it needs; asks no gateway."""
    from serving.rollout import shown
    from serving.rollout.outlook import BASE, outlook
    from serving.rollout.written import document_of

    values, plan = _read(arguments.of)
    said = outlook(plan, BASE if arguments.base is None else arguments.base)
    said["candidate"] = str(values["spec"]["candidate"])
    said["document"] = document_of(plan)
    return tell(arguments, 200, said, shown.outlook)


def _model(arguments: argparse.Namespace) -> str:
    return bare(argparse.Namespace(model=arguments.of))


def _read(name: str) -> tuple[Any, Plan]:
    """Return the fields in a file, and the plan that they are, whatever its alias means."""
    from serving.rollout.document import InvalidDocument, plan_of, values_of

    path = Path(name)
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX).decode()
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Mistake(f"{path}: it is not UTF-8") from None
    try:
        values = values_of(text, toml=path.suffix == ".toml")
        return values, plan_of(values, lambda _model, _alias: "1")
    except InvalidDocument as error:
        raise Mistake("\n".join(f"{path}: {each}" for each in error.mistakes)) from None


def _receipt(said: Document, arguments: argparse.Namespace) -> list[str]:
    """Write what came of a change, and how the rollout stands by it."""
    from router.rollout import parse_rollout
    from serving.cli_words import receipt

    stands = parse_rollout(said["change"]["rollout"])
    return receipt(said, aside(arguments), [("rollout", str(stands))])


def recompute(arguments: argparse.Namespace) -> int:
    """Judge again by every verdict of the journal; 1 if any does not follow from its counts."""
    from serving.access import place
    from serving.admin.audit import offline
    from serving.rollout import audit

    if arguments.config is not None:
        status, document = offline(place(configured(arguments.config)), show=True)
    else:
        from serving.cli_ask import ask

        answer = ask(access_of(arguments), "/v2/audit", s_max=arguments.timeout)
        status, document = answer.status, answer.document
    if status != 200:
        return tell(arguments, status, document, audit.words)
    said = audit.recomputed(document["entries"])
    tell(arguments, 200, said, audit.words)
    return 0 if said["ok"] else 1


def base_rate(text: str) -> float:
    """Read how often something goes wrong, for `argparse`."""
    from serving.rollout.units import rate

    try:
        value = rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no rate between 0% and 100%")
    return value
