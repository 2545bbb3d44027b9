"""A request on its way through a gateway whose traffic moves: held back, let go, refused, never lost."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from router.table import Route, RoutingTable, Share, everything_to
from tests.models import constant, place
from tests.running import Running
from tests.talking import Client, eventually, in_binary, in_json, rows

X = rows(1, 4)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    place(folder / "models", "other", 1, constant(1))
    for version in (7, 8):
        place(folder / "models", "m", version, constant(version), "version_policy { all { } }")
    settings = {"queue": {"requests_max": 3}, "engine": {"inline_us_max": 20_000}}
    with Running(folder / "models", folder / "state", settings) as made:
        yield made


@pytest.fixture(autouse=True)
def _from_7(running: Running) -> None:
    follow(running, everything_to("7"), 1)


def follow(running: Running, route: Route, revision: int) -> None:
    async def now() -> None:
        running.gateway.traffic.follow(RoutingTable(revision, {"m": route}), 1, {"m": revision})

    running.do(now())


def hold(running: Running) -> None:
    async def now() -> None:
        running.gateway.traffic.hold("m")

    running.do(now())


def release(running: Running) -> None:
    async def now() -> None:
        running.gateway.traffic.release("m")

    running.do(now())


def held(running: Running) -> int:
    return len(running.gateway.traffic.ways["m"].hold or ())


def version(answer) -> str:
    assert answer.status == 200, answer
    assert answer.headers["turnout-route"].split(";")[0] == answer.json["model_version"]
    return str(answer.json["model_version"])


@pytest.mark.parametrize("ask", [in_binary, in_json])
def test_an_answer_says_which_version_by_which_revision_and_why(running: Running, ask) -> None:
    with Client(running) as client:
        assert client.ask(ask("m", X)).headers["turnout-route"] == "7;1;static"
        assert client.ask(ask("m", X, "X-Turnout-Version: 8")).headers["turnout-route"] == "8;1;named"
        assert client.ask(ask("m", X, "Accept-Encoding: gzip")).headers["turnout-route"] == "7;1;static"
        assert client.ask(ask("m", X, "Connection: close")).headers["turnout-route"] == "7;1;static"


def test_what_is_held_back_is_answered_by_the_new_version(running: Running) -> None:
    with Client(running) as first, Client(running) as second:
        hold(running)
        first.send(in_binary("m", X))
        second.send(in_json("m", X))
        assert eventually(lambda: held(running) == 2)
        follow(running, everything_to("8"), 2)
        assert (version(first.answer()), version(second.answer())) == ("8", "8")


def test_what_is_held_back_is_answered_as_before_if_nothing_comes_of_it(running: Running) -> None:
    with Client(running) as client:
        hold(running)
        client.send(in_binary("m", X))
        assert eventually(lambda: held(running) == 1)
        release(running)
        assert version(client.answer()) == "7"


def test_what_names_its_version_and_what_is_for_another_model_is_not_held_back(running: Running) -> None:
    with Client(running) as client:
        hold(running)
        assert version(client.ask(in_binary("m", X, "X-Turnout-Version: 8"))) == "8"
        assert version(client.ask(in_binary("other", X))) == "1"
        release(running)


def test_a_client_that_leaves_while_it_is_held_back_costs_nothing(running: Running) -> None:
    with Client(running) as gone, Client(running) as stays:
        hold(running)
        gone.send(in_binary("m", X))
        stays.send(in_binary("m", X))
        assert eventually(lambda: held(running) == 2)
        gone.socket.shutdown(socket.SHUT_RDWR)
        assert eventually(lambda: running.listener.connections == 1)
        follow(running, everything_to("8"), 2)
        assert version(stays.answer()) == "8"


def test_how_many_are_held_back_is_bounded_and_the_rest_may_try_again(running: Running) -> None:
    clients = [Client(running) for _ in range(5)]
    hold(running)
    for client in clients:
        client.send(in_binary("m", X))
    assert eventually(lambda: held(running) == 3)
    refused = [client.answer() for client in clients[3:]]
    assert [(answer.status, answer.headers["retry-after"]) for answer in refused] == [(429, "1")] * 2
    release(running)
    for client in clients[:3]:
        assert version(client.answer()) == "7"
    for client in clients:
        client.socket.close()


def test_what_is_held_back_and_makes_no_sense_hears_so_when_it_is_let_go(running: Running) -> None:
    with Client(running) as client:
        hold(running)
        client.send(in_binary("m", rows(1, 3)))
        assert eventually(lambda: held(running) == 1)
        release(running)
        answer = client.answer()
        assert (answer.status, "expected shape" in answer.error) == (400, True)


def test_without_its_lease_a_replica_answers_nothing(running: Running) -> None:
    traffic = running.gateway.traffic
    with Client(running) as client:
        until, traffic.lease_ns = traffic.lease_ns, 0
        answer = client.ask(in_binary("m", X))
        traffic.lease_ns = until
        assert (answer.status, "lost the control" in answer.error) == (503, True)
        assert version(client.ask(in_binary("m", X))) == "7"


def test_an_unknown_alias_is_told_the_known_ones(running: Running) -> None:
    async def now() -> None:
        table = RoutingTable(3, {"m": everything_to("7")}, {"m": {"champion": "7", "old": "5"}})
        running.gateway.traffic.follow(table, 1, {"m": 3})

    running.do(now())
    with Client(running) as client:
        assert version(client.ask(in_binary("m", X, "X-Turnout-Alias: champion"))) == "7"
        answer = client.ask(in_binary("m", X, "X-Turnout-Alias: best"))
        assert answer.status == 404
        assert "no alias 'best'; known aliases: champion, old" in answer.error
        lost = client.ask(in_binary("m", X, "X-Turnout-Alias: old"))
        assert (lost.status, "version 5 of model 'm' is not loaded here" in lost.error) == (503, True)


def test_requests_of_one_tick_for_two_versions_each_get_their_own(running: Running) -> None:
    follow(running, Route((Share("8", 5000), Share("7", 5000))), 4)
    with Client(running) as client:
        client.send(in_binary("m", X) * 60)
        versions = [version(client.answer()) for _ in range(60)]
    assert set(versions) == {"7", "8"}
