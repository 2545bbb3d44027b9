"""Which verbs that ask a gateway has the command line, and which options do they take?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from serving import (
    cli_bench,
    cli_drift,
    cli_feedback,
    cli_load,
    cli_plan,
    cli_replay,
    cli_rollout,
    cli_traffic,
)

ANSWER_S_MAX = 60.0
"""How long the answer to a change is waited for, if nothing else is said."""
ANSWER_S_LIMIT = 3600.0
ROWS_LIMIT = 10_000_000
Answer = Callable[[argparse.Namespace], int]


class AddVerb(Protocol):
    """Adds a verb to the command line: its name, what answers it, and what it is for."""

    def __call__(self, name: str, answer: Answer, purpose: str) -> argparse.ArgumentParser:
        """Return its grammar, to be completed."""


def add_verbs(add: AddVerb) -> None:
    """Add the verbs of traffic, of models, of drift, of rollouts and of quality."""
    _add_looks(add)
    _add_splits(add)
    _add_returns(add)
    _add_names(add)
    _add_offline(add)
    _add_models(add)
    _add_drift(add)
    _add_rollouts(add)
    cli_plan.add_plan(add)
    cli_bench.add_bench(add)
    _add_quality(add)
    _add_replay(add)


def _add_looks(add: AddVerb) -> None:
    verb = add("status", cli_traffic.status, "say how traffic stands")
    verb.add_argument(
        "model", nargs="?", default="", metavar="MODEL", help="of this model; of all without it"
    )
    _asking(verb)
    verb = add("history", cli_traffic.history, "say who decided what about a model, when and why")
    _model(verb)
    verb.add_argument("--at", metavar="TIME", help='also what was in force then (UTC): "2026-11-24 14:05"')
    _asking(verb)


def _add_splits(add: AddVerb) -> None:
    verb = add("split", cli_traffic.split, "divide the traffic of a model between versions")
    _model(verb)
    verb.add_argument(
        "weights", nargs="+", metavar="VERSION=WEIGHT", help="such as 8=5%% 7=95%%, 100%% in all"
    )
    _changing(verb, why=True)
    verb = add("shadow", cli_traffic.shadow, "give versions a copy of some requests, or see how they compare")
    _model(verb)
    verb.add_argument(
        "weights",
        nargs="*",
        metavar="VERSION=WEIGHT",
        help="such as 9=20%%; none ends all; without any: look",
    )
    _changing(verb)
    verb = add("stick", cli_traffic.stick, "let requests of one caller get one version")
    _model(verb)
    verb.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="header:NAME, parameter:NAME or id; in order",
    )
    verb.add_argument("--salt", default="", metavar="TEXT", help="another one deals all callers anew")
    verb.add_argument("--off", action="store_true", help="draw every request at random")
    _changing(verb, why=True)
    verb = add("promote", cli_traffic.promote, "give a version all of the traffic")
    _model(verb)
    _version(verb)
    _changing(verb, why=True)


def _add_returns(add: AddVerb) -> None:
    for name in ("rollback", "undo"):
        verb = add(name, cli_traffic.rollback, "go back to what served well")
        _model(verb)
        verb.add_argument(
            "--to", metavar="VERSION", help="7, @champion or last-good, which it is without this"
        )
        verb.add_argument("--to-revision", type=_count, metavar="N", help="the whole route as of a revision")
        _changing(verb)


def _add_names(add: AddVerb) -> None:
    verb = add("pin", cli_traffic.pin, "send everything that names no version to one, the shares aside")
    _model(verb)
    _version(verb)
    _changing(verb, why=True)
    verb = add("unpin", cli_traffic.unpin, "let the shares count again")
    _model(verb)
    _changing(verb)
    verb = add("alias", cli_traffic.alias, "let a name mean a version")
    _model(verb)
    verb.add_argument("alias", metavar="ALIAS=VERSION", help="such as champion=7; champion= removes it")
    _changing(verb)


def _add_offline(add: AddVerb) -> None:
    verb = add("brake", cli_traffic.brake, "let one version answer on this node, control or no control")
    _model(verb)
    verb.add_argument("--to", default="", metavar="VERSION", help="which; the stable one without this")
    verb.add_argument("--release", action="store_true", help="let the routing table count again")
    verb.add_argument("--json", action="store_true", help="answer in JSON")
    verb.add_argument(
        "--config",
        default=cli_traffic.AUTO,
        metavar="FILE",
        help="of the gateway; auto is the one that runs here",
    )
    verb = add("audit", cli_traffic.audit, "show the journal, or check that it is what was written")
    what = ("verify", "show", "recompute")
    verb.add_argument(
        "what", choices=what, metavar="|".join(what), help="the last judges again by every verdict's counts"
    )
    _asking(verb)


def _add_models(add: AddVerb) -> None:
    verb = add("load", cli_load.load, "load a model as it lies in the repository now")
    _model(verb)
    verb.add_argument(
        "--override",
        type=Path,
        metavar="FILE",
        help="a configuration in JSON that counts instead of config.pbtxt",
    )
    _ordering(verb)
    verb = add("unload", cli_load.unload, "stop serving a model until it is loaded again")
    _model(verb)
    _ordering(verb)


def _ordering(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--by", metavar="NAME", help="who decided it; your login name without this")
    _asking(verb)


def _add_drift(add: AddVerb) -> None:
    verb = add("profile", cli_drift.profile, "say what is normal for a version, or see what is said")
    verb.add_argument("model", metavar="MODEL@VERSION", help="such as digits@8")
    way = verb.add_mutually_exclusive_group()
    way.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="of these rows (.npz, .csv, .parquet) and what the version answers to them; or a profile, .json",
    )
    way.add_argument("--freeze", type=_rows, metavar="N", help="of the next N rows of requests")
    way.add_argument("--drop", action="store_true", help="forget it")
    verb.add_argument(
        "--to", type=Path, metavar="FILE", help="write it into a .json instead of giving it to a gateway"
    )
    verb.add_argument(
        "--ignore", action="append", default=[], metavar="COLUMN", help="of FILE, which is no input"
    )
    verb.add_argument("--repository", metavar="DIR", help="where the models are, if no gateway runs")
    _asking(verb)
    verb = add("drift", cli_drift.drift, "say how far requests and answers are from what was normal")
    _model(verb)
    verb.add_argument("--version", metavar="VERSION", help="of this one alone")
    _asking(verb)


def _add_rollouts(add: AddVerb) -> None:
    verb = add("rollout", cli_rollout.rollout, "let a version take over step by step, judged on the way")
    actions = cli_rollout.ACTIONS
    verb.add_argument("action", choices=actions, metavar="ACTION", help=f"one of {', '.join(actions)}")
    verb.add_argument("of", metavar="FILE|MODEL", help="of start and check the FILE, of others the MODEL")
    verb.add_argument("--full", action="store_true", help="of promote: give the candidate everything now")
    verb.add_argument(
        "--base",
        type=cli_rollout.base_rate,
        metavar="RATE",
        help="of check: how much goes wrong now; 0.1%% without this",
    )
    _deciding(verb)
    _asking(verb)


def _add_quality(add: AddVerb) -> None:
    verb = add("feedback", cli_feedback.feedback, "say what was right about answers, once that is known")
    _model(verb)
    verb.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="many of them: .csv with a header, or .jsonl"
    )
    verb.add_argument("--id", metavar="ID", help="of the request that it is about")
    verb.add_argument("--label", metavar="CLASS", help="the class, by its number or its name")
    verb.add_argument(
        "--score", type=float, metavar="NUMBER", help="the right number, where there are no classes"
    )
    verb.add_argument("--row", type=int, metavar="N", help="which row of the request, from 0")
    verb.add_argument("--time", metavar="TIME", help="when it became known (UTC); now without this")
    _asking(verb)
    verb = add(
        "quality", cli_feedback.quality, "say how good the answers of a model are, as far as labels say"
    )
    _model(verb)
    verb.add_argument("--version", metavar="VERSION", help="of this one alone")
    _asking(verb)


def _add_replay(add: AddVerb) -> None:
    verb = add(
        "replay", cli_replay.replay, "run a model's latest requests through versions of it, and compare"
    )
    _model(verb)
    verb.add_argument("--through", required=True, metavar="VERSIONS", help="such as 7,8")
    verb.add_argument(
        "--rows", type=_rows, metavar="N", help="the newest N inputs; all that are kept without"
    )
    _asking(verb, s_max=cli_replay.ANSWER_S_MAX)


def _model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL", help="its name, or a reference such as models:/digits")


def _version(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "version", nargs="?", default="", metavar="VERSION", help="7 or @champion, unless MODEL says it"
    )


def _asking(verb: argparse.ArgumentParser, s_max: float = ANSWER_S_MAX) -> None:
    verb.add_argument("--json", action="store_true", help="answer in JSON")
    verb.add_argument("--admin", dest="admin_url", metavar="URL", help="of the admin application")
    verb.add_argument("--config", type=Path, metavar="FILE", help="the configuration of the gateway")
    verb.add_argument("--timeout", type=_seconds, default=s_max, metavar="S", help="for the answer")


def _changing(verb: argparse.ArgumentParser, *, why: bool = False) -> None:
    _deciding(verb, why=why)
    verb.add_argument("--atomic", action="store_true", help="hold requests for the moment of the change")
    _asking(verb)


def _deciding(verb: argparse.ArgumentParser, *, why: bool = False) -> None:
    verb.add_argument("--why", required=why, metavar="TEXT", help="the reason, for the journal")
    verb.add_argument("--by", metavar="NAME", help="who decided it; your login name without this")
    verb.add_argument("--dry-run", action="store_true", help="say what would become of it, and do nothing")
    verb.add_argument("--if-revision", type=_count, metavar="N", help="only if this revision is in force")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no revision; a number is")
    return int(text)


def _rows(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:10]) <= ROWS_LIMIT and len(text) <= 10):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of rows; 1 to {ROWS_LIMIT:,} are")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= ANSWER_S_LIMIT:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no time; seconds, at most {ANSWER_S_LIMIT:g}, are"
        )
    return value
