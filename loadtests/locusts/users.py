"""How does a user of locust ask, in each of the three ways?"""

from __future__ import annotations

import os

# Else a process that is forked while calls are under way aborts before it is the program it was to be,
# one in twenty: a replica that the scenario starts anew, say. Nobody makes calls after a fork here.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import time
from typing import Any

import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import FastHttpUser, User, constant_throughput, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.utils import InferenceServerException

from loadtests.locusts.asking import INPUT, Question, Told, as_json, questions, told_by, told_by_http
from loadtests.locusts.target import Target
from serving.rpc.encode import ROUTE_PARAMETER

REQUESTS_PER_S = 10.0
"""Of each user, as long as answers come in time; see docs/load-testing.md on what is not asked otherwise."""
ANSWER_S_MAX = 10.0

grpc_gevent.init_gevent()


class HttpUser(FastHttpUser):
    """What is common to both ways over HTTP: one connection, kept."""

    abstract = True
    wait_time = constant_throughput(REQUESTS_PER_S)
    network_timeout = connection_timeout = ANSWER_S_MAX
    concurrency = 1
    label = ""

    def __init__(self, environment: Environment) -> None:
        self.target: Target = environment.turnout
        self.host = f"http://{self.target.http}"
        super().__init__(environment)
        self._questions = questions(self.target.rows, next(self.target.askers))

    def ask(self, question: Question, body: bytes, headers: dict[str, str]) -> None:
        """Send a request and note what came of it."""
        path = f"/v2/models/{self.target.model}/infer"
        sent_s = time.monotonic()
        with self.client.post(path, data=body, headers=headers, name=path, catch_response=True) as answer:
            self._note(question, sent_s, answer)

    def _note(self, question: Question, sent_s: float, answer: ResponseContextManager) -> None:
        headers = answer.headers or {}
        route, length = headers.get("turnout-route"), headers.get("inference-header-content-length")
        told = told_by_http(answer.status_code, route, answer.content or b"", length, question)
        meta: dict[str, Any] = answer.request_meta
        meta["request_type"], meta["name"] = self.label, named(self.target, told)
        self.target.book.take(self.target.model, sent_s, meta["response_time"], told)
        if told.error and not meta["exception"]:
            answer.failure(told.error)


class HttpJsonUser(HttpUser):
    """Asks over HTTP, with values in JSON."""

    label = "HTTP JSON"

    @task
    def infer(self) -> None:
        """Ask once."""
        question = next(self._questions)
        self.ask(question, as_json(question), {"content-type": "application/json"})


class HttpBinaryUser(HttpUser):
    """Asks over HTTP, with values in binary, in bodies that tritonclient makes."""

    label = "HTTP binary"

    @task
    def infer(self) -> None:
        """Ask once."""
        question = next(self._questions)
        tensor = triton_http.InferInput(INPUT, question.row.shape, "FP32")
        tensor.set_data_from_numpy(question.row)
        body, length = triton_http.InferenceServerClient.generate_request_body(
            [tensor], request_id=question.id
        )
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
        self.ask(question, body, headers)


class GrpcUser(User):
    """Asks over gRPC, with tritonclient."""

    wait_time = constant_throughput(REQUESTS_PER_S)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.target: Target = environment.turnout
        number = next(self.target.askers)
        self._questions = questions(self.target.rows, number)
        # An argument of its own gives each user a connection of its own; otherwise gRPC shares one.
        own = [("turnout.load.asker", number), ("grpc.use_local_subchannel_pool", 1)]
        self.client = triton_grpc.InferenceServerClient(self.target.grpc, channel_args=own)

    def on_stop(self) -> None:
        """End the connection."""
        self.client.close()

    @task
    def infer(self) -> None:
        """Ask once."""
        question = next(self._questions)
        tensor = triton_grpc.InferInput(INPUT, question.row.shape, "FP32")
        tensor.set_data_from_numpy(question.row)
        sent_s = time.monotonic()
        failure: Exception | None = None
        length = 0
        try:
            answer = self._infer(tensor, question)
            length = answer.ByteSize()
            route = answer.parameters[ROUTE_PARAMETER].string_param
            told = told_by(route, answer.model_version, answer.id, question)
        except (InferenceServerException, grpc.RpcError) as error:
            failure, told = error, Told(error=str(error))
        ms = (time.monotonic() - sent_s) * 1e3
        if told.error and failure is None:
            failure = ValueError(told.error)
        self.target.book.take(self.target.model, sent_s, ms, told)
        self.environment.events.request.fire(
            request_type="gRPC",
            name=named(self.target, told),
            response_time=ms,
            response_length=length,
            exception=failure,
            context={},
        )

    def _infer(self, tensor: triton_grpc.InferInput, question: Question) -> Any:
        result = self.client.infer(
            self.target.model, [tensor], request_id=question.id, client_timeout=ANSWER_S_MAX
        )
        return result.get_response()


def named(target: Target, told: Told) -> str:
    """Name what answered, for locust's own statistics."""
    return f"{target.model}@{told.version}" if told.version else target.model


USERS: dict[str, type[User]] = {"json": HttpJsonUser, "binary": HttpBinaryUser, "grpc": GrpcUser}
