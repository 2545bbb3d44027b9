"""Is the house as it is drawn? Imports, documentation and files, held against each other."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import sys
import tomllib
import typing
from enum import StrEnum
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from serving import cli
from serving.config import Config, Section, load

PACKAGES = ("serving", "router", "kernels")
LINES_MAX = 400
FUNCTION_LINES_MAX = 50

# Spelt in pieces, so that this file is not the one that names them.
REGISTRIES = [
    "pypi" + ".org",
    "python" + "hosted",
    "nvcr" + ".io",
    "docker" + ".io",
    "ghcr" + ".io",
    "quay" + ".io",
]
MACHINE_PATHS = ["/" + "root/", "/" + "home/", "/" + "work/", "/" + "Users/", "/" + "opt/pypi"]


def test_the_import_contracts_are_kept(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    # It would silence every logger there is, for all tests that come after.
    monkeypatch.setattr("importlinter.cli._configure_logging", lambda _verbose: None)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def imported(package: str) -> set[str]:
    """Return the top-level names that the modules of `package` import, their own left out."""
    graph = grimp.build_graph(package, include_external_packages=True, cache_dir=None)
    own = {name for name in graph.modules if name.split(".")[0] == package}
    return {
        target.split(".")[0] for name in own for target in graph.find_modules_directly_imported_by(name)
    } - {package}


def test_the_router_needs_the_standard_library_alone():
    assert imported("router") <= sys.stdlib_module_names


def test_the_kernels_need_numpy_and_numba_alone():
    assert imported("kernels") <= {"numpy", "numba"} | sys.stdlib_module_names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_name_means_this_checkout(root, package):
    assert Path(importlib.import_module(package).__file__ or "").parent == root / package


@pytest.fixture(scope="module")
def modules(tracked, root) -> dict[str, str]:
    """Return the text of each module of the three packages, by its path in the checkout."""
    paths = [path.relative_to(root) for path in tracked if path.suffix == ".py"]
    return {str(path): (root / path).read_text() for path in paths if path.parts[0] in PACKAGES}


def test_every_room_is_a_package_that_is_installed(root):
    rooms = {f"serving.{each.parent.name}" for each in root.glob("serving/*/__init__.py")}
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == {*PACKAGES, *rooms}


def test_every_module_of_the_packages_says_first_what_it_is_for(modules):
    assert [name for name, text in modules.items() if not text.startswith('"""')] == []


def test_no_module_is_longer_than_one_idea(modules):
    lengths = {name: len(text.splitlines()) for name, text in modules.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_no_function_is_longer_than_a_screen(modules):
    lengths = {
        f"{name}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, text in modules.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(lengths) > len(modules)
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def settings() -> dict[str, object]:
    """Return every setting as `section.name`, with its default."""
    return {
        f"{section}.{name}": getattr(getattr(Config(), section), name)
        for section, field in Config.model_fields.items()
        for name in typing.cast("type[Section]", field.annotation).model_fields
    }


def spelt(default: object) -> str:
    """Return a default as it is written in TOML."""
    match default:
        case None:
            return "–"
        case Path():
            path = default.expanduser()
            home = Path.home()
            return json.dumps(f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path))
        case tuple():
            return json.dumps(list(default))
        case StrEnum() | str():
            return json.dumps(str(default))
        case _:
            return json.dumps(default)


def test_every_setting_and_no_other_is_documented_with_its_default(root):
    page = (root / "docs" / "reference" / "configuration.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+\.\w+)` \| `?(.*?)`? \|", page, re.MULTILINE))
    assert documented == {name: spelt(default) for name, default in settings().items()}


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_is_documented_with_each_of_its_options(root, verb):
    page = (root / "docs" / "reference" / "cli.md").read_text()
    _, found, section = page.partition(f"## turnout {verb}\n")
    assert found, f"no section '## turnout {verb}'"
    section = section.partition("\n## ")[0]
    for action in verbs()[verb]._actions:
        for option in action.option_strings or [str(action.metavar)]:
            if option not in ("-h", "--help"):
                assert option in section, f"`turnout {verb}` takes {option}, which its section does not say"


def test_no_verb_is_documented_that_there_is_not(root):
    page = (root / "docs" / "reference" / "cli.md").read_text()
    assert set(re.findall(r"^## turnout (\w+)$", page, re.MULTILINE)) == set(verbs())


def test_every_make_command_of_the_pages_is_in_the_makefile(root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        told = re.findall(r"(?:^    |`|^\$ )make ([a-z]+)", (root / name).read_text(), re.MULTILINE)
        assert told, f"{name} names no make command"
        assert set(told) <= targets, name


def test_the_readme_shows_its_two_commands_on_the_first_screen(root):
    screen = "\n".join((root / "README.md").read_text().splitlines()[:30])
    assert "    make serve" in screen
    assert "    make test" in screen


def test_every_link_between_the_pages_leads_somewhere(tracked, root):
    for path in tracked:
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
                assert (path.parent / target).exists(), f"{path.relative_to(root)} links to {target}"


def test_no_file_names_a_registry_host_or_a_place_on_one_machine(tracked, root):
    for path in tracked:
        text = path.read_bytes().decode(errors="replace")
        for name in (*REGISTRIES, *MACHINE_PATHS):
            assert name not in text, f"{path.relative_to(root)} names {name}"


@pytest.mark.parametrize("name", ["run", "dev"])
def test_every_line_of_a_lock_is_vouched_for_by_a_hash(root, name):
    lock = (root / "requirements" / f"{name}.lock").read_text()
    entries = re.split(r"\n(?=[a-z])", lock)[1:]
    assert len(entries) > 30
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "--index" + "-url" not in lock
    assert "--find-links" not in lock


def test_one_build_of_onnx_runtime_is_installed_on_any_platform(root):
    lock = (root / "requirements" / "run.lock").read_text()
    builds = re.findall(r"^onnxruntime\S*==\S+ ; (.*?) \\$", lock, re.MULTILINE)
    assert sorted(builds) == [
        "platform_machine != 'x86_64' or sys_platform != 'linux'",
        "platform_machine == 'x86_64' and sys_platform == 'linux'",
    ]


def test_every_configuration_that_is_shipped_is_a_good_one(root):
    for path in sorted((root / "configs").glob("*.toml")):
        load(path)


def test_the_container_serves_beyond_itself_by_name(root):
    config = load(root / "configs" / "container.toml")
    assert config.server.expose == ("0.0.0.0",)
    reached = (config.server.http, config.server.grpc, config.server.metrics)
    assert reached == ("0.0.0.0:8000", "0.0.0.0:8001", "0.0.0.0:8002")
    assert str(config.repository.state) == "/var/lib/turnout"


def test_the_image_is_made_of_what_is_there(root):
    dockerfile = (root / "Dockerfile.gpu").read_text()
    kept = (root / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (root / source).exists(), source
            assert f"!{source}" in kept, f".dockerignore leaves out {source}"
    assert "requirements/run.lock" in dockerfile
    assert "--require-hashes" in dockerfile


def test_the_image_runs_a_command_that_there_is_as_nobody_special(root):
    dockerfile = (root / "Dockerfile.gpu").read_text()
    command = json.loads(re.findall(r"^CMD (.+)$", dockerfile, re.MULTILINE)[0])
    arguments = cli.parser().parse_args(command)
    assert arguments.answer is cli.serve
    assert (root / arguments.config) == root / "configs" / "container.toml"
    assert re.search(r"^USER turnout$", dockerfile, re.MULTILINE)
    assert re.search(r"^EXPOSE 8000 8001 8002$", dockerfile, re.MULTILINE)
    assert "/v2/health/ready" in dockerfile
    for name, value in cli.MALLOC_THRESHOLDS.items():
        assert f"{name}={value}" in dockerfile


def test_the_project_says_one_version(root):
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
