"""What do all tests share? Modest generated examples, and one demo a run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from serving import cli, demo

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile(
    "quick", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", parent=settings.get_profile("quick"), max_examples=2000)
# A change is judged by the same examples every time, so that none is refused for what another one left.
settings.register_profile("ci", parent=settings.get_profile("quick"), derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of this checkout."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def _own_announcements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let gateways of tests announce themselves where neither people nor other runs look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("TURNOUT_ADMIN", raising=False)
        patch.delenv("TURNOUT_TOKEN", raising=False)
        yield


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Return the files of this checkout that git knows or would take in."""
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := root / name).is_file()]


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the whole demo: models/digits, models/wine and requests. Do not write there."""
    folder = tmp_path_factory.mktemp("demo")
    demo.build(folder)
    return folder


@pytest.fixture
def turnout(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], str]]:
    """Run a command; return its exit code, its lines and what it complained of."""

    def run(*arguments: object) -> tuple[int, list[str], str]:
        code = cli.main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run
