"""What can be asked of Turnout on the command line?

Nothing heavy is imported before it is known to be needed: `turnout check` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from serving import cli_verbs
from serving.mistake import Mistake

if TYPE_CHECKING:
    from serving.config import Config

MALLOC_THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""glibc gives a freed 600 kB body back to the kernel and asks for it again each time; keeping it
was worth 3.7 times to what allocates. 32 MiB is the most that it takes for the first of the two."""

ADDRESS_MISTAKES = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv`, by default the one of this process, and return its exit code."""
    arguments = parser().parse_args(argv)
    if argv is None:
        signal.signal(signal.SIGTERM, _interrupt)
        if getattr(arguments, "local", False):
            keep_freed_memory()
    try:
        code: int = arguments.answer(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 0
    except (
        BrokenPipeError
    ):  # Whoever reads, such as `head`, has seen enough; the interpreter's end would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Mistake as mistake:
        print(*(f"turnout: {line}" for line in str(mistake).splitlines()), sep="\n", file=sys.stderr)
        return 2
    return code


def parser() -> argparse.ArgumentParser:
    """Return the grammar of the command line; docs/reference/cli.md describes it."""
    top = argparse.ArgumentParser("turnout", description="Serve versioned ONNX models over V2 HTTP and gRPC.")
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    verbs = top.add_subparsers(metavar="VERB", required=True)

    verb = _verb(verbs, "serve", serve, "answer requests until Ctrl-C or SIGTERM")
    verb.add_argument("--local", action="store_true", help="in one process, without Ray")
    verb.add_argument("--config", type=Path, metavar="FILE", help="the configuration, in TOML")
    verb.add_argument("--repository", metavar="DIR", help="the models; overrides repository.path")
    verb.add_argument("--http", metavar="ADDRESS:PORT", help="overrides server.http")
    verb.add_argument("--grpc", metavar="ADDRESS:PORT", help="overrides server.grpc")
    verb.add_argument("--metrics", metavar="ADDRESS:PORT", help="overrides server.metrics")
    verb.add_argument("--admin", metavar="ADDRESS:PORT", help="overrides server.admin")

    verb = _verb(verbs, "check", check, "say what is wrong with a configuration, one line per mistake")
    verb.add_argument("file", type=Path, metavar="FILE")

    verb = _verb(verbs, "demo", demo, "train and lay out the models that one tries the gateway with")
    verb.add_argument("--into", type=Path, metavar="DIR", default=Path("build/demo"), help="%(default)s")

    verb = _verb(verbs, "admit", admit, "try a model as the server would before it serves it")
    verb.add_argument("model", type=Path, metavar="MODEL_DIR|model.onnx")
    verb.add_argument("--config", type=Path, metavar="FILE", help="the configuration with the limits")

    cli_verbs.add_verbs(lambda name, answer, purpose: _verb(verbs, name, answer, purpose))
    return top


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from serving.access import NoAccess
    from serving.config import ConfigError
    from serving.private import NotPrivate

    config = configuration(arguments)
    folder = config.repository.path
    if not folder.is_dir():
        raise Mistake(f"repository.path: no folder {str(folder)!r}; `turnout demo` makes one to try")
    try:
        _run(config, local=arguments.local)
    except (ConfigError, NoAccess, NotPrivate) as error:
        raise Mistake(str(error)) from None
    except OSError as error:
        if error.errno not in ADDRESS_MISTAKES:
            raise
        *others, last = [getattr(config.server, name) for name in ("http", "grpc", "metrics", "admin")]
        where = f"{', '.join(others)} and {last}"
        raise Mistake(f"cannot listen on {where}: {os.strerror(error.errno or 0)}") from None
    return 0


def _run(config: Config, *, local: bool) -> None:
    from serving.demo import what_to_try

    models = Path(os.path.relpath(config.repository.path))

    def announce(http: str, grpc: str, metrics: str, admin: str) -> None:
        spoken = f"HTTP on {http}, gRPC on {grpc}" if grpc else f"HTTP on {http}"
        print(f"turnout: ready, {spoken}, metrics on {metrics}, admin on {admin}")
        if config.server.tls_certificate is None:
            print(*_standings(http), sep="\n")
        print(what_to_try(models, http, metrics), flush=True)

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if local:
        from serving.local import run as run_local

        run_local(config, announce)
        return
    from serving.deploy import run as run_on_ray

    try:
        run_on_ray(config, announce)
    except RuntimeError as error:
        raise Mistake(str(error)) from None


def _standings(http: str) -> list[str]:
    """Return a line for each version in the repository: served, or why not."""
    import json
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(f"http://{http}/v2/repository/index", method="POST"), timeout=5) as answer:
            index = json.load(answer)
    except OSError as error:
        return [f"  the repository index did not answer: {error}"]
    return [
        f"  {each['name']}@{each['version'] or '-'} {each['state']} {each['reason']}".rstrip()
        for each in index
    ]


def check(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a configuration file, or that nothing is."""
    from serving.config import ConfigError, load

    try:
        load(arguments.file)
    except ConfigError as error:
        print(error)
        return 1
    print(f"{arguments.file}: ok")
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Build the demo and print how good each version is."""
    from serving.demo import DemoError, build, describe

    try:
        versions = build(arguments.into)
    except (DemoError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise Mistake(str(error)) from None
    print(*map(describe, versions), f"laid out in {arguments.into / 'models'}", sep="\n")
    return 0


def admit(arguments: argparse.Namespace) -> int:
    """Try a model in a process of its own, as before serving it; print what came of each version."""
    import tempfile

    from serving.admit import admit as attempt
    from serving.regular import Refusal
    from serving.store import Store

    limits = configuration(arguments).admission
    outcomes: dict[int, str] = {}
    with tempfile.TemporaryDirectory(prefix="turnout-admit-") as scratch:
        store, artifacts = Store(Path(scratch) / "store", limits.file_bytes_max), []
        try:
            model, folders, faults = _versions(arguments.model, Path(scratch))
        except Refusal as refusal:
            raise Mistake(str(refusal)) from None
        for number, folder in folders.items():
            try:
                artifacts.append(store.put(model, number, folder))
            except Refusal as refusal:
                faults[number] = str(refusal)
        for verdict in attempt(artifacts, limits):
            if verdict.reason:
                faults[verdict.artifact.version] = verdict.reason
            outcomes[verdict.artifact.version] = f"admitted ({verdict.note})" if verdict.note else "admitted"
    outcomes.update({number: f"refused: {fault}" for number, fault in faults.items()})
    for number, outcome in sorted(outcomes.items()):
        print(f"{model}@{number}: {outcome}")
    return 1 if faults else 0


def _versions(path: Path, scratch: Path) -> tuple[str, dict[int, Path], dict[int, str]]:
    """Return the name, the version folders and the faults of the model that a user named."""
    import shutil

    from serving.regular import check_regular
    from serving.repository import ONNX_NAME, scan

    path = path.absolute()
    if path.is_dir():
        path = path.resolve()
        candidate = scan(path.parent).get(path.name)
        if candidate is None:
            raise Mistake(f"{path.name}: hidden folders are not served")
        if not (candidate.versions or candidate.faults):
            raise Mistake(f"{path.name}: {candidate.reason}")
        if candidate.config is not None:
            _read_config(candidate.config, candidate.name)
        return candidate.name, candidate.versions, dict(candidate.faults)
    check_regular(path, path.name)
    if path.name != ONNX_NAME:
        # Alone, under the name that the server knows; a file with others beside it is named by its folder.
        (scratch / "1").mkdir()
        shutil.copyfile(path, scratch / "1" / ONNX_NAME)
        return path.stem, {1: scratch / "1"}, {}
    version = path.parent.name
    if version.isdecimal():
        return path.parent.parent.name, {int(version): path.parent}, {}
    return version, {1: path.parent}, {}


def _read_config(path: Path, model: str) -> None:
    from serving import pbtxt

    try:
        pbtxt.read(path, model)
    except ValueError as error:
        raise Mistake(f"{model}: {error}") from None


def configuration(arguments: argparse.Namespace) -> Config:
    """Return the configuration of the file, or the default one, with the command line's word last.

    Its paths are absolute, relative ones being meant from where the command is given: a replica or a
    process of admission has another working directory.
    """
    from serving.config import Config, ConfigError, load, parse

    try:
        config = load(arguments.config) if arguments.config else Config()
        said = {
            "repository": {"path": getattr(arguments, "repository", None)},
            "server": {name: getattr(arguments, name, None) for name in ("http", "grpc", "metrics", "admin")},
        }
        document: dict[str, Any] = config.model_dump(exclude_unset=True)
        for section, settings in said.items():
            document.setdefault(section, {}).update({k: v for k, v in settings.items() if v is not None})
        config = parse(document, "command line")
    except ConfigError as error:
        raise Mistake(str(error)) from None
    return config.model_copy(
        update={
            "repository": _absolute(config.repository, "path", "state"),
            "server": _absolute(config.server, "tls_certificate", "tls_key"),
        }
    )


def _absolute(section: Any, *names: str) -> Any:
    paths = {name: getattr(section, name) for name in names}
    return section.model_copy(update={name: path and path.absolute() for name, path in paths.items()})


def keep_freed_memory() -> None:
    """Start this very command again, once, with glibc told to keep what is freed.

    glibc reads the thresholds before Python runs. Called before anything heavy is imported, it
    costs what an empty Python costs to start, some 20 ms; the process id stays.
    """
    if sys.platform != "linux" or MALLOC_THRESHOLDS.keys() <= os.environ.keys():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**MALLOC_THRESHOLDS, **os.environ})


def version() -> str:
    """Return Turnout's version, from the checkout that runs."""
    import tomllib

    document = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    return str(document["project"]["version"])


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        print(f"turnout {version()}")
        sys.exit(0)


def _verb(
    verbs: Any, name: str, answer: Callable[[argparse.Namespace], int], purpose: str
) -> argparse.ArgumentParser:
    sentence = f"{purpose[0].upper()}{purpose[1:]}."
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=purpose, description=sentence)
    verb.set_defaults(answer=answer)
    return verb


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
