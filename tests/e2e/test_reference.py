"""Is offered over either protocol what the other offers, what the pages say, and what `GET /v2` lists?"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from serving.rpc.messages import FILES
from serving.rpc.status import GRPC_STATUS
from tests.models import mlp, place
from tests.running import Running
from tests.test_house import settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference" / "grpc.md"
SERVICE = "inference.GRPCInferenceService"
NOT_OFFERED = {"UNIMPLEMENTED", "PERMISSION_DENIED"}
SURFACE = {
    "model_configuration": ("GET /v2/models/mlp/config", "ModelConfig"),
    "statistics": ("GET /v2/models/stats", "ModelStatistics"),
    "trace": ("GET /v2/trace/setting", "TraceSetting"),
    "logging": ("GET /v2/logging", "LogSettings"),
    "model_repository": ("POST /v2/repository/models/mlp/load", "RepositoryModelLoad"),
    "system_shared_memory": ("GET /v2/systemsharedmemory/status", "SystemSharedMemoryStatus"),
    "cuda_shared_memory": ("GET /v2/cudasharedmemory/status", "CudaSharedMemoryStatus"),
}
"""The extensions of the protocol that have paths and rpcs of their own."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a gateway as it is by default."""
    yield from _run(tmp_path_factory, {})


@pytest.fixture(
    scope="module", params=["as it is by default", "with all that is optional", "without metrics"]
)
def configured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    match request.param:
        case "with all that is optional":
            yield from _run(tmp_path_factory, {"shared_memory": {"enabled": True}})
        case "without metrics":
            yield from _run(tmp_path_factory, {"metrics": {"enabled": False}})
        case _:
            yield request.getfixturevalue("running")


def _run(factory: pytest.TempPathFactory, more: dict[str, dict[str, bool]]) -> Iterator[Running]:
    folder = factory.mktemp("reference")
    place(folder / "models", "mlp", 1, mlp())
    with Running(folder / "models", folder / "state", more) as running:
        yield running


def _status(running: Running, request: str) -> int:
    method, path = request.split()
    asked = urllib.request.Request(f"http://{running.http}{path}", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=10) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _code(running: Running, rpc: str) -> str:
    """Call an rpc with the empty message, which is one of every kind, and return the status."""
    with grpc.insecure_channel(running.grpc) as channel:
        try:
            channel.unary_unary(f"/{SERVICE}/{rpc}")(b"", timeout=10)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.mark.parametrize("extension", SURFACE)
def test_an_extension_is_listed_just_when_both_protocols_offer_it(configured, extension):
    path, rpc = SURFACE[extension]
    with urllib.request.urlopen(f"http://{configured.http}/v2", timeout=10) as got:
        listed = extension in json.load(got)["extensions"]
    assert (_status(configured, path) not in (403, 501)) is listed
    assert (_code(configured, rpc) not in NOT_OFFERED) is listed


def _unary() -> list[str]:
    (service,) = FILES["grpc_service.proto"].service
    return [each.name for each in service.method if not each.server_streaming]


def _described() -> dict[str, str]:
    table = PAGE.read_text().partition("## Rpcs\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE)
    return {name: meaning for names, meaning in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("rpc", _unary())
def test_an_rpc_is_refused_just_when_the_page_says_so(running, rpc):
    code, meaning = _code(running, rpc), _described()[rpc]
    assert (code in NOT_OFFERED) is any(each in meaning for each in NOT_OFFERED), (code, meaning)


def test_what_the_page_for_triton_s_users_names_is_there():
    page = (DOCS / "coming-from-triton.md").read_text()
    tables = {name.partition(".")[0] for name in settings()}
    named = set(re.findall(rf"`((?:{'|'.join(tables)})\.\w+)(?: = [^`]*)?`", page))
    assert len(named) > 10
    assert named <= set(settings())
    statuses = re.findall(r"`([A-Z_]+)`", page.partition("## Errors")[2].partition("\n## ")[0])
    assert set(statuses) <= {name for _, name in GRPC_STATUS.values()}
