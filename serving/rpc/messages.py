"""What are the services' messages? V2's are tritonclient's, those of health and reflection are built here.

The latter are in a pool of their own, so that packages which bring the same names along do no harm in the
same process. See docs/decisions/012-grpc-messages.md.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import model_config_pb2, service_pb2

__all__ = ["FILES", "SERVICES", "DecodeError", "service_pb2"]

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTIONS = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"
SERVICES = (INFERENCE, HEALTH, *REFLECTIONS)

_Field = tuple[str, int, str]
"""A field's name, number and type, perhaps after ``oneof``, ``repeated`` or ``enum``."""

_HEALTH: dict[str, tuple[_Field, ...]] = {
    "HealthCheckRequest": (("service", 1, "string"),),
    "HealthCheckResponse": (("status", 1, "enum HealthCheckResponse.ServingStatus"),),
    "HealthListRequest": (),
    "HealthListResponse": (("statuses", 1, "repeated HealthListResponse.StatusesEntry"),),
}
_REFLECTION: dict[str, tuple[_Field, ...]] = {
    "ServerReflectionRequest": (
        ("host", 1, "string"),
        ("file_by_filename", 3, "oneof string"),
        ("file_containing_symbol", 4, "oneof string"),
        ("file_containing_extension", 5, "oneof ExtensionRequest"),
        ("all_extension_numbers_of_type", 6, "oneof string"),
        ("list_services", 7, "oneof string"),
    ),
    "ExtensionRequest": (("containing_type", 1, "string"), ("extension_number", 2, "int32")),
    "ServerReflectionResponse": (
        ("valid_host", 1, "string"),
        ("original_request", 2, "ServerReflectionRequest"),
        ("file_descriptor_response", 4, "oneof FileDescriptorResponse"),
        ("all_extension_numbers_response", 5, "oneof ExtensionNumberResponse"),
        ("list_services_response", 6, "oneof ListServiceResponse"),
        ("error_response", 7, "oneof ErrorResponse"),
    ),
    "FileDescriptorResponse": (("file_descriptor_proto", 1, "repeated bytes"),),
    "ExtensionNumberResponse": (("base_type_name", 1, "string"), ("extension_number", 2, "repeated int32")),
    "ListServiceResponse": (("service", 1, "repeated ServiceResponse"),),
    "ServiceResponse": (("name", 1, "string"),),
    "ErrorResponse": (("error_code", 1, "int32"), ("error_message", 2, "string")),
}
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
}


def _file(package: str, name: str, messages: dict[str, tuple[_Field, ...]]) -> Any:
    file = FileDescriptorProto(name=name, package=package, syntax="proto3")
    for message, fields in messages.items():
        said = file.message_type.add(name=message)
        for field in fields:
            _add_field(said, package, *field)
    return file


def _add_field(message: Any, package: str, name: str, number: int, kind: str) -> None:
    *rule, type_name = kind.split()
    label = FieldDescriptorProto.LABEL_REPEATED if "repeated" in rule else FieldDescriptorProto.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if type_name in _SCALARS:
        field.type = _SCALARS[type_name]
    else:
        field.type = FieldDescriptorProto.TYPE_ENUM if "enum" in rule else FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{package}.{type_name}"
    if "oneof" in rule:
        if not message.oneof_decl:
            message.oneof_decl.add(name=message.name.replace("ServerReflection", "message_").lower())
        field.oneof_index = 0


def _health_file() -> Any:
    file = _file("grpc.health.v1", "grpc/health/v1/health.proto", _HEALTH)
    status = file.message_type[1].enum_type.add(name="ServingStatus")
    for number, name in enumerate(_STATUSES):
        status.value.add(name=name, number=number)
    entry = file.message_type[3].nested_type.add(name="StatusesEntry")
    entry.options.map_entry = True
    _add_field(entry, file.package, "key", 1, "string")
    _add_field(entry, file.package, "value", 2, "HealthCheckResponse")
    service = file.service.add(name="Health")
    _add_method(service, file.package, "Check", "HealthCheckRequest", "HealthCheckResponse")
    _add_method(service, file.package, "List", "HealthListRequest", "HealthListResponse")
    watch = _add_method(service, file.package, "Watch", "HealthCheckRequest", "HealthCheckResponse")
    watch.server_streaming = True
    return file


def _reflection_file(package: str) -> Any:
    file = _file(package, f"{package.replace('.', '/')}/reflection.proto", _REFLECTION)
    service = file.service.add(name="ServerReflection")
    names = "ServerReflectionInfo", "ServerReflectionRequest", "ServerReflectionResponse"
    method = _add_method(service, package, *names)
    method.client_streaming = method.server_streaming = True
    return file


def _add_method(service: Any, package: str, name: str, takes: str, returns: str) -> Any:
    return service.method.add(
        name=name, input_type=f".{package}.{takes}", output_type=f".{package}.{returns}"
    )


_OWN = (_health_file(), *[_reflection_file(name.rpartition(".")[0]) for name in REFLECTIONS])
_POOL = DescriptorPool()
for _each in _OWN:
    _POOL.Add(_each)


def built(name: str) -> Any:
    """Return the class of a message of health or reflection, by its full name."""
    return GetMessageClass(_POOL.FindMessageTypeByName(name))


def _theirs(module: Any) -> Any:
    return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


FILES: dict[str, Any] = {each.name: each for each in (_theirs(service_pb2), _theirs(model_config_pb2), *_OWN)}
"""The descriptors of all files, by name, as reflection hands them out."""
