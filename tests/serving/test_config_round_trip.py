"""What a gateway says of a model's configuration it takes as one, over either protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToJson

from serving import access
from tests.running import Running

MODELS = ("digits", "wine")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Iterator[Running]:
    with Running(demo_folder / "models", tmp_path_factory.mktemp("round") / "state") as running:
        yield running


@pytest.fixture(scope="module")
def operator(running: Running) -> dict[str, str]:
    return {"authorization": f"Bearer {access.token(access.control_folder(running.config))}"}


@pytest.mark.parametrize("model", MODELS)
def test_the_configuration_that_http_returns_is_taken_as_an_override(running, operator, model):
    with tritonclient.http.InferenceServerClient(running.http) as triton:
        before = triton.get_model_config(model)
        triton.load_model(model, headers=operator, config=json.dumps(before))
        assert triton.is_model_ready(model)
        assert triton.get_model_config(model) == before
        triton.load_model(model, headers=operator)


@pytest.mark.parametrize("model", MODELS)
def test_the_configuration_that_grpc_returns_is_taken_as_an_override(running, operator, model):
    with tritonclient.grpc.InferenceServerClient(running.grpc) as triton:
        before = triton.get_model_config(model)
        triton.load_model(model, headers=operator, config=MessageToJson(before.config))
        assert triton.is_model_ready(model)
        assert triton.get_model_config(model) == before
        triton.load_model(model, headers=operator)
