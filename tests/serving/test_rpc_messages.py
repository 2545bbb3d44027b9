"""Are the messages that are built here those that others have, and are all rpcs answered?"""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2

from serving.rpc import describe
from serving.rpc.messages import FILES, REFLECTIONS, SERVICES, built
from serving.rpc.reflection import SYMBOLS


def _described(text: bytes) -> FileDescriptorProto:
    file = FileDescriptorProto.FromString(text)
    file.ClearField("options")
    file.ClearField("name")
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")
    return file


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (health_pb2, "grpc/health/v1/health.proto"),
        (reflection_pb2, "grpc/reflection/v1alpha/reflection.proto"),
    ],
)
def test_what_is_built_here_is_what_the_packages_have(module, name):
    theirs = _described(module.DESCRIPTOR.serialized_pb)
    ours = _described(FILES[name].SerializeToString())
    messages = {each.name: each for each in ours.message_type}
    for message in theirs.message_type:
        assert messages[message.name] == message
    methods = {each.name: each for each in ours.service[0].method}
    for method in theirs.service[0].method:
        assert methods[method.name] == method


def test_both_versions_of_reflection_differ_in_their_package_alone():
    new, old = (
        FILES[f"{name.rpartition('.')[0].replace('.', '/')}/reflection.proto"] for name in REFLECTIONS
    )
    assert str(new).replace("reflection.v1", "reflection.v1alpha").replace(
        "reflection/v1", "reflection/v1alpha"
    ) == str(old)


def test_health_s_listing_holds_statuses_by_name():
    said = built("grpc.health.v1.HealthListResponse")()
    said.statuses["m"].status = 2
    (entry,) = said.statuses.items()
    assert entry == ("m", built("grpc.health.v1.HealthCheckResponse")(status="NOT_SERVING"))


def test_packages_with_the_same_messages_may_be_imported_before_and_after():
    for order in (
        "grpc_health.v1.health_pb2, serving.rpc.messages",
        "serving.rpc.messages, grpc_health.v1.health_pb2",
    ):
        code = f"import {order}, grpc_reflection.v1alpha.reflection_pb2"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_rpc_of_v2_is_answered():
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {each.name for each in service.methods} == {*describe.HANDLERS, "ModelInfer", "ModelStreamInfer"}


def test_every_service_and_all_that_it_names_is_found_by_reflection():
    assert set(SERVICES) <= SYMBOLS.keys()
    for file in FILES.values():
        for service in file.service:
            for method in service.method:
                assert {method.input_type[1:], method.output_type[1:]} <= SYMBOLS.keys()
        assert set(file.dependency) <= FILES.keys()
    assert SYMBOLS["inference.ModelInferRequest.InferInputTensor"] == "grpc_service.proto"
