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
    from serving.bench.load import Load
    from serving.bench.plan import Calling, Plan
    from serving.bench.promise import Promise
    from serving.bench.questions import Asking
    from serving.bench.search import Trial
    from serving.bench.target import Named, Target
    from serving.cli_verbs import AddVerb


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
    from serving.bench.plan import Plan
    from serving.bench.questions import pool, rows_of

    named, target = _named(arguments.model), _target(arguments)
    specs = target.inputs(named)
    closed = arguments.rate == float("inf")
    if closed and arguments.search:
        raise Mistake("a search begins at a rate; max is none")
    asking, calling = _manner(arguments, named, target)
    return Plan(
        target.at,
        named.model,
        pool(asking, rows_of(specs, arguments.rows, arguments.source, arguments.seed)),
        options.RATE_PER_S if arguments.rate is None else 0.0 if closed else arguments.rate,
        Arrivals.CLOSED if closed else Arrivals(arguments.arrivals),
        arguments.seconds or (options.TRIAL_S if arguments.search else options.SECONDS),
        arguments.warm,
        arguments.requests,
        arguments.connections,
        max(arguments.connections_max, arguments.connections) if not closed else arguments.connections,
        arguments.timeout or (options.TRIAL_TIMEOUT_S if arguments.search else options.TIMEOUT_S),
        arguments.seed,
        tls=target.tls,
        calling=calling,
    )


def _named(text: str) -> Named:
    """Read the model, its version, and the headers that name what of it is asked."""
    from serving.bench.target import Named

    try:
        model, named = reference(text)
    except InvalidName as error:
        raise Mistake(str(error)) from None
    if named.startswith("@"):
        return Named(model, headers=[("x-turnout-alias", named[1:])])
    return Named(model, named)


def _target(arguments: argparse.Namespace) -> Target:
    """Return whom the options name, or the configuration."""
    from serving.bench import target

    protocol, url = arguments.protocol, arguments.url
    if arguments.http:
        if protocol == "grpc":
            raise Mistake("--http is not asked over gRPC; --url grpc://ADDRESS:PORT is")
        url = f"http://{_checked(arguments.http)}"
    found = target.read(
        url or _configured(arguments.config, protocol), arguments.ca, insecure=arguments.insecure
    )
    if protocol is not None and found.grpc != (protocol == "grpc"):
        raise Mistake(f"--protocol {protocol} contradicts --url {url}")
    return found


def _checked(at: str) -> str:
    from serving.config import address

    try:
        address(at)
    except ValueError as error:
        raise Mistake(f"--http: {error}") from None
    return at


def _configured(path: Path | None, protocol: str | None) -> str:
    """Return the URL that a configuration gives a gateway."""
    from serving.config import Config, ConfigError, load

    try:
        server = (load(path) if path else Config()).server
    except ConfigError as error:
        raise Mistake(str(error)) from None
    grpc = protocol == "grpc"
    at = server.grpc if grpc else server.http
    if not at:
        raise Mistake("the configuration has no gRPC to ask: server.grpc is empty")
    return f"{'grpc' if grpc else 'http'}{'s' if server.tls_certificate else ''}://{at}"


def _manner(arguments: argparse.Namespace, named: Named, target: Target) -> tuple[Asking, Calling | None]:
    """Return what makes requests out of inputs, and how calls are made, if it is by gRPC."""
    from serving.bench.questions import Encoding, Manner

    header, callers = arguments.callers or ("", 0)
    headers = [*named.headers, *arguments.header]
    if not target.grpc:
        path, encoding = f"{named.path}/infer", Encoding(arguments.encoding or "binary")
        return Manner(path, target.authority, encoding, headers, header, callers), None
    if arguments.encoding == "json":
        raise Mistake("over gRPC tensors are binary; --encoding json is for HTTP")
    from serving.bench.messages import Speech, calling

    how = calling(target.authority, headers, tls=target.tls is not None, streams=arguments.streams)
    return Speech(named.model, named.version, header, callers), how


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
