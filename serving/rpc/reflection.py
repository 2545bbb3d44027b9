"""Which services does this server have, and what are their messages?  (grpc.reflection.v1 and v1alpha)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serving.errors import TurnoutError
from serving.rpc.calling import Line, Message
from serving.rpc.messages import FILES, SERVICES, DecodeError, built
from serving.rpc.walk import unreadable

NOT_FOUND = 5


def _names(file: Any) -> Iterator[str]:
    """Yield the full names of everything that a file defines and that has one."""
    for message in file.message_type:
        yield from _nested(f"{file.package}.{message.name}", message)
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}"
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)


def _nested(name: str, message: Any) -> Iterator[str]:
    yield name
    yield from (f"{name}.{each.name}" for each in (*message.field, *message.enum_type))
    for each in message.nested_type:
        yield from _nested(f"{name}.{each.name}", each)


SYMBOLS: Mapping[str, str] = {name: file.name for file in FILES.values() for name in _names(file)}
"""The file of each name."""


class Reflection:
    """The service's side of a ServerReflectionInfo call, of the version whose package it is."""

    def __init__(self, package: str, line: Line) -> None:
        self._line = line
        self._request = built(f"{package}.ServerReflectionRequest")
        self._response = built(f"{package}.ServerReflectionResponse")
        self._over = False

    def message(self, message: Message) -> None:
        """Answer a question."""
        if self._over:
            return
        try:
            request = self._request.FromString(bytes(message))
        except DecodeError:
            self._finish(unreadable("ServerReflectionRequest"))
            return
        said = self._response(valid_host=request.host, original_request=request)
        _answer(request, said)
        self._line.send((said.SerializeToString(),))

    def closed(self) -> None:
        """End: everything was answered."""
        self._finish(None)

    def cancelled(self) -> None:
        """End: nobody listens."""
        self._over = True

    def drain(self) -> None:
        """End: everything was answered."""
        self._finish(None)

    def _finish(self, error: TurnoutError | None) -> None:
        if not self._over:
            self._over = True
            self._line.finish(error)


def _answer(request: Any, said: Any) -> None:
    match request.WhichOneof("message_request"):
        case "file_by_filename":
            _tell_files(request.file_by_filename, said)
        case "file_containing_symbol":
            _tell_files(SYMBOLS.get(request.file_containing_symbol.removeprefix("."), ""), said)
        case "list_services":
            for name in SERVICES:
                said.list_services_response.service.add(name=name)
        case _:  # There are no extensions: the files are proto3.
            said.error_response.error_code = NOT_FOUND
            said.error_response.error_message = "there is nothing of that kind here"


def _tell_files(name: str, said: Any) -> None:
    """Tell a file, and those that it needs."""
    if name not in FILES:
        said.error_response.error_code = NOT_FOUND
        said.error_response.error_message = "no such file or symbol; list_services lists what there is"
        return
    for each in (name, *FILES[name].dependency):
        said.file_descriptor_response.file_descriptor_proto.append(FILES[each].SerializeToString())
