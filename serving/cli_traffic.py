"""How is traffic between versions looked at and changed on the command line?

Light on purpose: a rollback must not wait for imports.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from router.names import InvalidName, check_alias, check_named, check_version, reference, weight_bp
from serving.mistake import Mistake

if TYPE_CHECKING:
    from serving.access import Access
    from serving.config import Config

UNCLEAR = 0
"""In the place of a status: none came."""
ANSWERS_NO = {UNCLEAR, 409, 412}
"""Statuses that are an answer to the question; others say that it was wrong, or nobody there to ask."""
AUTO = "auto"
Document = dict[str, Any]
Words = Callable[[Document], Iterable[str]]
T = TypeVar("T")


def status(arguments: argparse.Namespace) -> int:
    """Print how traffic stands."""
    from serving import cli_words

    if not arguments.model:
        return look(arguments, "/v2/traffic", cli_words.traffic)
    model = bare(arguments)
    return look(arguments, f"/v2/models/{model}/traffic", lambda said: cli_words.standing(model, said))


def history(arguments: argparse.Namespace) -> int:
    """Print what was decided about a model."""
    from urllib.parse import quote

    from serving import cli_words

    at = "" if arguments.at is None else f"?at={quote(arguments.at, safe='')}"
    return look(arguments, f"/v2/models/{bare(arguments)}/traffic/history{at}", cli_words.history)


def split(arguments: argparse.Namespace) -> int:
    """Divide the traffic."""
    return _change(arguments, bare(arguments), "split", {"weights": _weights(arguments.weights)})


def shadow(arguments: argparse.Namespace) -> int:
    """Set what shadows, or print how it compares."""
    model = bare(arguments)
    if not arguments.weights:
        from serving import cli_words

        return look(arguments, f"/v2/models/{model}/shadow", cli_words.nested)
    if arguments.why is None:
        raise Mistake("--why says why, for the journal; a change of shadows needs it")
    shadows = {} if arguments.weights == ["none"] else _weights(arguments.weights)
    return _change(arguments, model, "shadow", {"shadows": shadows})


def stick(arguments: argparse.Namespace) -> int:
    """Set or end stickiness."""
    if arguments.off == bool(arguments.key):
        raise Mistake("say by which --key callers are known, such as --key header:x-user-id, or --off")
    said = {"keys": arguments.key, "salt": arguments.salt}
    return _change(arguments, bare(arguments), "stick", said)


def promote(arguments: argparse.Namespace) -> int:
    """Give a version all of the traffic."""
    model, named = _model_and_version(arguments)
    return _change(arguments, model, "promote", {"version": named})


def pin(arguments: argparse.Namespace) -> int:
    """Send everything to one version."""
    model, named = _model_and_version(arguments)
    return _change(arguments, model, "pin", {"version": named})


def unpin(arguments: argparse.Namespace) -> int:
    """Let the shares count again."""
    return _change(arguments, bare(arguments), "unpin", {})


def rollback(arguments: argparse.Namespace) -> int:
    """Go back."""
    model, named = checked(reference, arguments.model)
    if named and arguments.to:
        raise Mistake(f"{arguments.model} names a version already, and --to another one")
    to = named or arguments.to
    if to and arguments.to_revision is not None:
        raise Mistake("a rollback goes --to a version or --to-revision, not both")
    if to and to != "last-good":
        checked(check_named, to)
    said = {"to": to or None, "to_revision": arguments.to_revision}
    return _change(arguments, model, "rollback", {k: v for k, v in said.items() if v is not None})


def alias(arguments: argparse.Namespace) -> int:
    """Set or remove an alias."""
    name, equals, version = arguments.alias.partition("=")
    if not equals:
        raise Mistake(f"{arguments.alias!r} is no ALIAS=VERSION; champion=7 is, and champion= removes it")
    checked(check_alias, name)
    said = {"alias": name, "version": checked(check_version, version) if version else None}
    return _change(arguments, bare(arguments), "alias", said)


def brake(arguments: argparse.Namespace) -> int:
    """Pull or release the brake of a model on this node."""
    from serving.cli_brake import brake as pull_or_release

    return pull_or_release(arguments, bare(arguments))


def audit(arguments: argparse.Namespace) -> int:
    """Verify, show or judge again the journal: of the gateway that runs, or the file of a configuration."""
    from serving import cli_words

    if arguments.what == "recompute":
        from serving.cli_rollout import recompute

        return recompute(arguments)
    show = arguments.what == "show"
    words = cli_words.journal if show else cli_words.verified
    if arguments.config is None:
        return look(arguments, "/v2/audit" if show else "/v2/audit/verify", words)
    from serving.access import place
    from serving.admin.audit import offline

    status, document = offline(place(configured(arguments.config)), show=show)
    return tell(arguments, status, document, words)


def look(arguments: argparse.Namespace, path: str, words: Words) -> int:
    """Ask for something and print it."""
    from serving.cli_ask import ask

    answer = ask(access_of(arguments), path, s_max=arguments.timeout)
    return tell(arguments, answer.status, answer.document, words)


def _change(arguments: argparse.Namespace, model: str, verb: str, said: Document) -> int:
    from serving import cli_words

    path, said = f"/v2/models/{model}/traffic/{verb}", {**said, "atomic": arguments.atomic}
    return change(arguments, path, said, lambda it: cli_words.receipt(it, aside(arguments)))


def change(arguments: argparse.Namespace, path: str, said: Document, words: Words) -> int:
    """Ask for a change and print its receipt; what is not confirmed is no success."""
    from serving.cli_ask import Unclear, ask

    body = {**said, "by": arguments.by or login(), "dry_run": arguments.dry_run}
    body |= {"why": arguments.why} if arguments.why is not None else {}
    body |= {"if_revision": arguments.if_revision} if arguments.if_revision is not None else {}
    try:
        answer = ask(access_of(arguments), path, body, arguments.timeout)
    except Unclear as unclear:
        return tell(arguments, UNCLEAR, {"error": str(unclear)}, words)
    code = tell(arguments, answer.status, answer.document, words)
    if answer.status == 200 and not (answer.document["confirmed"] or answer.document["dry_run"]):
        return 1
    return code


def tell(arguments: argparse.Namespace, status: int, document: Document, words: Words) -> int:
    """Print an answer and return the exit code that it has."""
    if arguments.json:
        print(json.dumps(document))
    if status == 200:
        if not arguments.json:
            print(*words(document), sep="\n")
        return 0
    from serving.cli_words import plain

    print(f"turnout: {plain(document.get('error', f'status {status}'))}", file=sys.stderr)
    return 1 if status in ANSWERS_NO else 2


def access_of(arguments: argparse.Namespace) -> Access:
    """Return the way to the gateway that is meant."""
    from serving import access

    config = configured(arguments.config) if arguments.config else None
    return safely(lambda: access.find(arguments.admin_url, config))


def safely(way: Callable[[], T]) -> T:
    """Return what `way` does; that there is no safe one is the user's to mend."""
    from serving.access import NoAccess
    from serving.private import NotPrivate

    try:
        return way()
    except (NoAccess, NotPrivate) as error:
        raise Mistake(str(error)) from None


def configured(path: Path) -> Config:
    """Return a configuration as `turnout serve` would read it."""
    from serving.cli import configuration

    return configuration(argparse.Namespace(config=path))


def checked(check: Callable[[str], T], text: str) -> T:
    """Return what `check` makes of a word of the command line."""
    try:
        return check(text)
    except InvalidName as error:
        raise Mistake(str(error)) from None


def bare(arguments: argparse.Namespace) -> str:
    """Return the model of a verb that is about all of its versions."""
    model, named = checked(reference, arguments.model)
    if named:
        raise Mistake(f"{arguments.model} names a version; here a model is meant, such as {model}")
    return model


def _model_and_version(arguments: argparse.Namespace) -> tuple[str, str]:
    model, named = checked(reference, arguments.model)
    if bool(named) == bool(arguments.version):
        raise Mistake(
            f"name one version, such as {model} 7, {model} @champion or models:/{model}@champion; got "
            + (f"{arguments.model} and {arguments.version}" if named else arguments.model)
        )
    return model, named or checked(check_named, arguments.version)


def _weights(words: list[str]) -> dict[str, str]:
    """Return the weights by version or alias, as they were written."""
    weights: dict[str, str] = {}
    for word in words:
        named, equals, weight = word.partition("=")
        if not equals:
            raise Mistake(f"{word!r} is no VERSION=WEIGHT; 8=5% is")
        checked(check_named, named)
        checked(weight_bp, weight)
        if named in weights:
            raise Mistake(f"version {named} has two weights, {weights[named]} and {weight}")
        weights[named] = weight
    return weights


def aside(arguments: argparse.Namespace) -> str:
    """Return the options with which another command reaches the same gateway."""
    said = {"--admin": getattr(arguments, "admin_url", None), "--config": arguments.config}
    options = [
        f" {name} {shlex.quote(str(value))}" for name, value in said.items() if value not in {None, AUTO}
    ]
    return "".join(options)


def login() -> str:
    """Return the login name of whoever asks."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
