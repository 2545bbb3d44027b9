"""How is a gateway put under load on the command line?"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.names import InvalidName, reference
from serving.bench import options
from serving.mistake import Mistake

if TYPE_CHECKING:
    from serving.bench.load import Load, Plan
    from serving.bench.promise import Promise
    from serving.bench.search import Trial
    from serving.cli_verbs import AddVerb
    from serving.wire import TensorSpec

ANSWER_S_MAX = 10.0
ANSWER_BYTES_MAX = 1 << 20


def add_bench(add: AddVerb) -> None:
    """Add the verb to the command line."""
    options.complete(add("bench", bench, "ask a model at a rate of yours, and say how late the answers are"))


def bench(arguments: argparse.Namespace) -> int:
    """Put a model under load, and print what came of it; 1 if a promise is broken."""
    from serving.bench import report, shown
    from serving.bench.promise import promises

    try:
        promised = promises(arguments.slo or arguments.search or "") if _promising(arguments) else []
    except ValueError as error:
        raise Mistake(str(error)) from None
    plan = planned(arguments)
    if arguments.search:
        said, words = report.found(plan, searched(arguments, plan, promised)), shown.search
    else:
        load = _run(plan)
        said, words = report.document(plan, load, promised), shown.run
    print(*([json.dumps(said)] if arguments.json else words(said)), sep="\n")
    return 0 if said["ok"] else 1


def _promising(arguments: argparse.Namespace) -> bool:
    return arguments.slo is not None or arguments.search is not None


def planned(arguments: argparse.Namespace) -> Plan:
    """Return what is to be asked; the gateway says what the model takes."""
    from serving.bench.arrivals import Arrivals
    from serving.bench.load import Plan
    from serving.bench.questions import Encoding, Manner, pool, rows_of
    from serving.config import address

    model, path, pins = _path(arguments.model)
    where = arguments.http or _configured(arguments.config)
    try:
        at = address(where)
    except ValueError as error:
        raise Mistake(f"--http: {error}") from None
    specs = _inputs(at, path, model)
    callers = arguments.callers or ("", 0)
    manner = Manner(
        f"{path}/infer", where, Encoding(arguments.encoding), [*pins, *arguments.header], *callers
    )
    closed = arguments.rate == float("inf")
    if closed and arguments.search:
        raise Mistake("a search begins at a rate; max is none")
    return Plan(
        at,
        model,
        pool(manner, rows_of(specs, arguments.rows, arguments.source, arguments.seed)),
        options.RATE_PER_S if arguments.rate is None else 0.0 if closed else arguments.rate,
        Arrivals.CLOSED if closed else Arrivals(arguments.arrivals),
        arguments.seconds or (options.TRIAL_S if arguments.search else options.SECONDS),
        arguments.warm,
        arguments.requests,
        arguments.connections,
        max(arguments.connections_max, arguments.connections) if not closed else arguments.connections,
        arguments.timeout or (options.TRIAL_TIMEOUT_S if arguments.search else options.TIMEOUT_S),
        arguments.seed,
    )


def _path(text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Return the model, its path, and the headers that name what of it is asked."""
    try:
        model, named = reference(text)
    except InvalidName as error:
        raise Mistake(str(error)) from None
    path = f"/v2/models/{model}"
    if named.startswith("@"):
        return model, path, [("x-turnout-alias", named[1:])]
    return model, f"{path}/versions/{named}" if named else path, []


def _configured(path: Path | None) -> str:
    from serving.config import Config, ConfigError, load

    try:
        return str((load(path) if path else Config()).server.http)
    except ConfigError as error:
        raise Mistake(str(error)) from None


def _inputs(at: tuple[str, int], path: str, model: str) -> list[TensorSpec]:
    """Ask the gateway what a model takes."""
    import http.client

    from serving.wire import DATATYPES, TensorSpec

    connection = http.client.HTTPConnection(*at, timeout=ANSWER_S_MAX)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        content = json.loads(answer.read(ANSWER_BYTES_MAX))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Mistake(f"no gateway answers at {at[0]}:{at[1]}: {error}") from None
    finally:
        connection.close()
    if answer.status != 200 or "inputs" not in content:
        said = content.get("error") if isinstance(content, dict) else None
        raise Mistake(f"{model}: {said or f'status {answer.status}, and not as a gateway answers'}")
    return [
        TensorSpec(each["name"], DATATYPES[each["datatype"]], tuple(each["shape"]))
        for each in content["inputs"]
    ]


def _run(plan: Plan) -> Load:
    from serving.bench.load import Load
    from serving.bench.shown import second

    def tell(number: int, recent: Any) -> None:
        print(second(number, recent), file=sys.stderr, flush=True)

    load = Load(plan, tell if sys.stderr.isatty() else None)
    load.run()
    return load


def searched(arguments: argparse.Namespace, plan: Plan, promised: list[Promise]) -> Any:
    """Search for the highest rate that keeps what is promised."""
    import time

    from serving.bench.search import Search

    until_s = time.monotonic() + arguments.within
    trial_s = plan.warm_s + plan.seconds + plan.timeout_s
    search = Search(lambda rate: _trial(plan, rate, promised), lambda: until_s - time.monotonic(), trial_s)
    return search.look(plan.rate_per_s)


def _trial(plan: Plan, rate_per_s: float, promised: list[Promise]) -> Trial:
    from serving.bench.load import Load
    from serving.bench.promise import verdict
    from serving.bench.search import Trial

    load = Load(replace(plan, rate_per_s=rate_per_s))
    load.run()
    if load.cut:
        raise KeyboardInterrupt
    broken = verdict(promised, load.tally.whole())
    trial = Trial(
        rate_per_s, not broken, load.busy, "; ".join(f"{each.promise}: {each.found}" for each in broken)
    )
    if sys.stderr.isatty():
        word = "kept" if trial.kept else f"broken ({trial.found})"
        print(f"{rate_per_s:10,.0f}/s  {word}", file=sys.stderr, flush=True)
    return trial
